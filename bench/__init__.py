"""Measurements beside other implementations: `python -m bench.NAME` prints a table and writes a CSV."""
