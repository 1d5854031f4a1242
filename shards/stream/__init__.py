"""Batches for one rank: the order of samples, the streams, the feature table."""
