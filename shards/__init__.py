"""Data: import, write, check, plan, stream. The only room that imports webdataset.

Command line: `python -m shards --help`.
"""

from importlib import import_module
from typing import Any

# Loaded at first use: webdataset and torch take seconds, and reading an index needs neither.
_HOME = {
    "Batch": "stream.batch",
    "Block": "format.records",
    "DataError": "errors",
    "DataSetWriter": "format.writer",
    "EvalStream": "stream.training",
    "FeatureShard": "format.index",
    "FeatureTable": "stream.feature_table",
    "Features": "format.index",
    "Index": "format.index",
    "Plan": "stream.plan",
    "SequenceShard": "format.index",
    "TrainStream": "stream.training",
    "evaluated": "format.index",
    "windows": "stream.plan",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
