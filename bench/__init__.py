"""Measurements side by side with peers: `python -m bench.NAME` prints a table and writes a CSV."""
