"""Sequence shards as samples: flat arrays of items and, for each sample, where its items are.

Shards are decoded once and stay in memory up to a bound, so that small data sets are read once per run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from shards.errors import DataError
from shards.format.index import Index
from shards.stream.plan import FILLER, window_count


def shard_samples(index: Index, max_length: int, stride: int) -> list[int]:
    """Training samples (windows) of each sequence shard, from its histogram of training lengths."""
    counts = []
    for shard in index.sequence_shards:
        length, users = np.array(shard.train_lengths, dtype=np.int64).reshape(-1, 2).T
        counts.append(int((window_count(length, max_length, stride) * users).sum()))
    return counts


def training_samples(index: Index, max_length: int, stride: int) -> int:
    """Training samples (windows) per epoch, known from the index alone.

    Raises:
        DataError: there is nothing to train on. ValueError: `max_length` and `stride` cut no windows.
    """
    samples = sum(shard_samples(index, max_length, stride))
    if not samples:
        raise DataError(f"{index.path}: nothing to train on: no user has 2 items in the training part")
    return samples


@dataclass(frozen=True)
class Samples:
    """Samples over a flat array of items.

    A sample's inputs are items `[start, stop-1)` of its user's sequence, the items after each of them are its
    targets; targets with an index below `first_target` do not count. In evaluation the only target is item
    `stop-1`; of a whole history, `stop-1` is its length, and there is no target.
    """

    item: np.ndarray  # int32 [E], the sequences one after the other, each whole
    user: np.ndarray  # int64 [n], the user's row in the index; FILLER where it could not be read
    begin: np.ndarray  # int64 [n], where in `item` the user's sequence begins
    start: np.ndarray  # int64 [n]
    stop: np.ndarray  # int64 [n]
    first_target: np.ndarray  # int64 [n]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def length(self) -> np.ndarray:
        """int64 [n]: number of inputs."""
        length: np.ndarray = self.stop - 1 - self.start
        return length

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    @staticmethod
    def missing(count: int) -> Samples:
        """Samples that could not be read: they have no user and no inputs, and become fillers in a batch."""
        zeros = np.zeros(count, np.int64)
        return Samples(np.zeros(1, np.int32), zeros + FILLER, zeros, zeros, zeros + 1, zeros + 1)

    def take(self, rows: np.ndarray | slice) -> Samples:
        """The given samples, over the same items."""
        return Samples(self.item, *(getattr(self, name)[rows] for name in _COLUMNS))

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """Several parts (at least one) as one."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.cumsum([0] + [len(part.item) for part in parts[:-1]])
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        columns["begin"] += np.repeat(sizes, [len(part) for part in parts])
        return Samples(np.concatenate([part.item for part in parts]), **columns)


_COLUMNS = ("user", "begin", "start", "stop", "first_target")


class SampleCache:
    """Samples by shard number, least recently used dropped beyond `max_bytes` (one shard is always kept)."""

    def __init__(self, load: Callable[[int], Samples], max_bytes: int = 256 << 20):
        self._load, self._max_bytes = load, max_bytes
        self._kept: OrderedDict[int, Samples] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, shard: int) -> Samples:
        if shard in self._kept:
            self._kept.move_to_end(shard)
            return self._kept[shard]
        samples = self._load(shard)
        self._kept[shard] = samples
        self._bytes += samples.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return samples
