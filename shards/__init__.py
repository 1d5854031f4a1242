"""Data: import, write, check, plan, stream. The only room that imports webdataset.

Command line: `python -m shards --help`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.errors import DataError as DataError
    from shards.format.files import file_sha256 as file_sha256
    from shards.format.index import Features as Features
    from shards.format.index import FeatureShard as FeatureShard
    from shards.format.index import Index as Index
    from shards.format.index import SequenceShard as SequenceShard
    from shards.format.reader import read_feature_shard as read_feature_shard
    from shards.format.reader import read_sequence_shard as read_sequence_shard
    from shards.format.records import Block as Block
    from shards.format.writer import DataSetWriter as DataSetWriter
    from shards.stream.batch import Batch as Batch
    from shards.stream.evaluation import EvalStream as EvalStream
    from shards.stream.feature_table import FeatureTable as FeatureTable
    from shards.stream.histories import HistoryStream as HistoryStream
    from shards.stream.histories import history_batch as history_batch
    from shards.stream.plan import Plan as Plan
    from shards.stream.samples import training_samples as training_samples
    from shards.stream.training import TrainStream as TrainStream
    from shards.synthetic.data_set import synthesise as synthesise

# Loaded at first use: webdataset and torch take seconds, and reading an index needs neither.
_MODULES = {
    "Batch": "stream.batch",
    "Block": "format.records",
    "DataError": "errors",
    "DataSetWriter": "format.writer",
    "EvalStream": "stream.evaluation",
    "FeatureShard": "format.index",
    "FeatureTable": "stream.feature_table",
    "Features": "format.index",
    "HistoryStream": "stream.histories",
    "Index": "format.index",
    "Plan": "stream.plan",
    "SequenceShard": "format.index",
    "TrainStream": "stream.training",
    "file_sha256": "format.files",
    "history_batch": "stream.histories",
    "read_feature_shard": "format.reader",
    "read_sequence_shard": "format.reader",
    "synthesise": "synthetic.data_set",
    "training_samples": "stream.samples",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
