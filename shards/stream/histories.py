"""The whole histories of users, for recommending what comes next."""

from __future__ import annotations

from collections.abc import Iterator

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
