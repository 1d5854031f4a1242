"""Data sets on disk: the index, the records, their reader and writer."""
