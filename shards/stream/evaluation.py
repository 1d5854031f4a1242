"""The users of the validation or test split, dealt to the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.errors import DataError
from shards.format.index import Index
from shards.format.splits import evaluated
from shards.stream.bad_shards import ShardReader
from shards.stream.batch import Batch, pack_evaluation, page_locked
from shards.stream.feature_table import FeatureTable
from shards.stream.plan import FILLER, check_rank, deal, pick
from shards.stream.prefetch import prefetch
from shards.stream.samples import SampleCache, Samples

SPAN_BATCHES = 64  # rows sorted by length at a time, in batches of all ranks


class EvalStream:
    """The users who have a target in the `split` ("valid" or "test"), each once, dealt to the ranks.

    A user's target is the last item of the split's part, the history all before it, the input its newest
    `max_length`. Users come in the order of the index, sorted by input length within `SPAN_BATCHES` batches
    of all ranks.
    pin_memory: batches come in page-locked memory.
    batch_size: rows of a rank's batch; all ranks have equally many batches, filled up with rows of weight 0.
    max_bad_shards: shards that may be unreadable: their users are left out.
    users: number of users evaluated, where all can be read.
    """

    def __init__(
        self,
        index: Index,
        split: str,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        max_length: int,
        table: FeatureTable | None = None,
        pin_memory: bool = False,
        max_bad_shards: int = 0,
    ):
        if split not in ("valid", "test"):
            raise ValueError(f"split: found {split!r}, expected 'valid' or 'test'")
        if min(batch_size, max_length) < 1:
            raise ValueError(f"batch_size, max_length: found {batch_size}, {max_length}, expected at least 1")
        check_rank(rank, world_size)
        self.index, self.split, self.table = index, split, table
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.max_length = max_length
        self.users = index.counts.valid_users if split == "valid" else index.counts.test_users
        self.pin_memory = pin_memory
        self._shards = ShardReader(index, max_bad_shards)
        self._cache = SampleCache(self._read)

    def __len__(self) -> int:
        return -(-self.users // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        return prefetch(map(page_locked, batches) if self.pin_memory else batches)

    def _batches(self) -> Iterator[Batch]:
        left = len(self)
        for batch in self._read_batches():
            left -= 1
            yield self.table.join(batch) if self.table is not None else batch
        for _ in range(left):  # users could not be read; other ranks may have read them
            batch = pack_evaluation(Samples.missing(1), np.full(self.batch_size, FILLER))
            yield self.table.join(batch) if self.table is not None else batch

    def _read_batches(self) -> Iterator[Batch]:
        for samples in self._spans():
            longest_first = np.argsort(-samples.length, kind="stable")
            share = deal(
                len(samples),
                rank=self.rank,
                world_size=self.world_size,
                micro_batch_size=self.batch_size,
                accumulation=-(-len(samples) // (self.batch_size * self.world_size)),
            )
            for rows in share:
                yield pack_evaluation(samples, pick(longest_first, rows))

    def _spans(self) -> Iterator[Samples]:
        if not self.users:
            return
        size = SPAN_BATCHES * self.batch_size * self.world_size
        pending, users = [], 0
        for shard in range(len(self.index.sequence_shards)):
            pending.append(self._cache[shard])
            users += len(pending[-1])
            while sum(map(len, pending)) >= size:
                joined = Samples.concatenate(pending)
                yield joined.take(slice(size))
                pending = [joined.take(slice(size, None))]
        if users != self.users and not self._shards.bad:
            difference = f"found {users} users with a target, expected {self.users} by the index"
            raise DataError(f"{self.index.path}: split {self.split}: {difference}")
        if any(map(len, pending)):
            yield Samples.concatenate(pending)

    def _read(self, shard: int) -> Samples:
        block = self._shards.read(shard)
        if block is None:
            return Samples.missing(0)
        chosen = np.flatnonzero(evaluated(block.length, block.boundary)[self.split == "test"])
        stop = (block.boundary[:, 1] if self.split == "valid" else block.length)[chosen].astype(np.int64)
        start = np.maximum(stop - 1 - self.max_length, 0)
        return Samples(block.item, block.user[chosen], block.starts[chosen], start, stop, stop - 1)
