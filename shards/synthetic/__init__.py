"""Synthetic data sets with a known ceiling."""
