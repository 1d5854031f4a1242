"""Data: import, write, check, plan, stream. The only room that imports webdataset.

Command line: `python -m shards --help`.
"""

from importlib import import_module
from typing import Any

# Loaded at first use: webdataset and torch take seconds, and reading an index needs neither.
_HOME = {
    "Batch": "batch",
    "Block": "records",
    "DataError": "errors",
    "DataSetWriter": "writer",
    "EvalStream": "stream",
    "FeatureShard": "schema",
    "FeatureTable": "table",
    "Features": "schema",
    "Index": "schema",
    "Plan": "plan",
    "SequenceShard": "schema",
    "TrainStream": "stream",
    "evaluated": "schema",
    "windows": "plan",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
