"""Reads a trained run: weights, evaluation by full ranking, recommendations."""
