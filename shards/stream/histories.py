"""Whole histories, for recommending what comes next: those of a data set's users, and anybody's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from shards.format.index import Index
from shards.format.reader import read_sequence_shard
from shards.stream.batch import Batch, pack_histories, page_locked
from shards.stream.feature_table import FeatureTable
from shards.stream.prefetch import prefetch
from shards.stream.samples import Samples


class HistoryStream:
    """Users with all their events: `history` has all, `item` the newest `max_length`; there is no target.

    Users come in the order of the index; a batch holds users of one sequence shard.
    pin_memory: batches come in page-locked memory.
    chosen: which users, bool [users of the index]; None for all.
    users: number of users chosen.

    Raises:
        ValueError: the sizes are below 1, or `chosen` has another shape.
    """

    def __init__(
        self,
        index: Index,
        *,
        chosen: np.ndarray | None = None,
        batch_size: int,
        max_length: int,
        table: FeatureTable | None = None,
        pin_memory: bool = False,
    ):
        if min(batch_size, max_length) < 1:
            raise ValueError(f"batch_size, max_length: found {batch_size}, {max_length}, expected at least 1")
        self._chosen = np.ones(index.users, bool) if chosen is None else chosen
        if self._chosen.shape != (index.users,) or self._chosen.dtype != bool:
            shape = f"{self._chosen.dtype} {list(self._chosen.shape)}"
            raise ValueError(f"chosen: found {shape}, expected bool [{index.users}]")
        self.index, self.table = index, table
        self.batch_size, self.max_length = batch_size, max_length
        self.pin_memory = pin_memory
        self.users = int(self._chosen.sum())

    def __len__(self) -> int:
        return sum(
            -(-int(self._chosen[entry.first_user : entry.first_user + entry.users].sum()) // self.batch_size)
            for entry in self.index.sequence_shards
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        return prefetch(map(page_locked, batches) if self.pin_memory else batches)

    def _batches(self) -> Iterator[Batch]:
        for entry in self.index.sequence_shards:
            chosen = self._chosen[entry.first_user : entry.first_user + entry.users]
            if not chosen.any():
                continue
            block = read_sequence_shard(self.index, entry)
            length = block.length.astype(np.int64)
            # A sample's inputs end one before its `stop`, where a target would be.
            start = np.maximum(length - self.max_length, 0)
            samples = Samples(block.item, block.user, block.starts[:-1], start, length + 1, length)
            rows = np.flatnonzero(chosen)
            for first in range(0, len(rows), self.batch_size):
                batch = pack_histories(samples, rows[first : first + self.batch_size])
                yield self.table.join(batch) if self.table is not None else batch


def history_batch(histories: Sequence[Sequence[int]], max_length: int) -> Batch:
    """A batch of histories that belong to no user of a data set, videos 1..I, oldest first.

    As a batch of `HistoryStream`, with the `sample_id` of user 0 in every row: so what is made of a history
    does not depend on whose it is.
    """
    length = np.array([len(history) for history in histories], np.int64)
    item = np.fromiter(
        chain(*histories, [0]), np.int32
    )  # the 0 is never read: NumPy takes nothing from nothing
    none = np.zeros_like(length)
    start = np.maximum(length - max_length, 0)
    samples = Samples(item, none, np.cumsum(length) - length, start, length + 1, length)
    return pack_histories(samples, np.arange(len(length)))
