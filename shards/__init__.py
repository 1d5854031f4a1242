"""Data: import, write, check, plan, stream. The only room that imports webdataset.

Command line: `python -m shards --help`.
"""

from .batch import Batch
from .errors import DataError
from .plan import Plan, windows
from .records import Block
from .schema import Features, FeatureShard, Index, SequenceShard, evaluated
from .stream import EvalStream, TrainStream
from .table import FeatureTable
from .writer import DataSetWriter

__all__ = [
    "Batch",
    "Block",
    "DataError",
    "DataSetWriter",
    "EvalStream",
    "FeatureShard",
    "FeatureTable",
    "Features",
    "Index",
    "Plan",
    "SequenceShard",
    "TrainStream",
    "evaluated",
    "windows",
]
