"""Streams of batches for one rank: training in the order of the plan, evaluation over a split's users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from shards.errors import DataError
from shards.format.index import Index, evaluated
from shards.format.reader import read_sequence_shard
from shards.format.records import Block
from shards.stream.batch import Batch, pack_evaluation, pack_training
from shards.stream.feature_table import FeatureTable
from shards.stream.plan import Plan, cut_windows, deal, resolve_accumulation, resolve_stride, window_count
from shards.stream.prefetch import prefetch
from shards.stream.samples import SampleCache, Samples

SPAN_BATCHES = 64  # of an evaluation: rows sorted by length at a time, in batches of all ranks


class TrainStream:
    """A rank's share of the training samples, in the order of `plan.Plan`.

    batch_size: samples of a global batch; micro_batch_size: rows of a rank's micro-batch. The rest is
    accumulated.
    max_length: inputs of a sample; stride: targets between the windows of a long sequence, 0 = half of
    max_length.
    shuffle_window: global batches that are in memory, mixed and sorted by length at a time.
    workers: processes that prepare batches; 0 = a thread. They change neither content nor order.
    ValueError where the sizes do not fit together, DataError where there is nothing to train on.
    """

    def __init__(
        self,
        index: Index,
        *,
        batch_size: int,
        micro_batch_size: int,
        rank: int,
        world: int,
        max_length: int,
        stride: int = 0,
        seed: int,
        shuffle_window: int = 64,
        table: FeatureTable | None = None,
        workers: int = 0,
    ):
        self.accumulation = resolve_accumulation(batch_size, micro_batch_size, world)
        _check_rank(rank, world)
        if workers and table is not None and table.device.type != "cpu":
            raise ValueError(f"workers: found {workers}, expected 0 with a table on {table.device}")
        self.index, self.table, self.workers = index, table, workers
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.rank, self.world = rank, world
        self.max_length, self.stride = max_length, resolve_stride(max_length, stride)
        self.seed, self.shuffle_window = seed, shuffle_window
        self._shard_samples = [self._count(shard.train_lengths) for shard in index.sequence_shards]
        self._cache = SampleCache(self._read)
        first = self.plan(0)
        self.samples_per_epoch, self.steps_per_epoch = first.samples, first.steps
        if not self.samples_per_epoch:
            raise DataError(f"{index.path}: nothing to train on: no user has 2 items in the training part")

    def plan(self, epoch: int) -> Plan:
        """The order of an epoch, the same on all ranks."""
        return Plan(
            self._shard_samples,
            seed=self.seed,
            epoch=epoch,
            batch_size=self.batch_size,
            window=self.shuffle_window,
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """The epoch's global steps from `start_step` on: this rank's `accumulation` micro-batches of each.

        A start in mid-epoch reads only what comes after it. DataErrors are raised at the step that needs the
        data.
        """
        steps = _EpochSteps(self, self.plan(epoch))
        order = range(start_step, self.steps_per_epoch)
        if not self.workers:
            yield from prefetch(steps[step] for step in order)
            return
        loader = DataLoader(
            _ErrorsAsItems(steps),
            batch_size=None,
            sampler=order,
            num_workers=self.workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # its own: the loader would draw from the run's
        )
        for item in loader:
            if isinstance(item, DataError):
                raise item
            yield item

    def state_dict(self, epoch: int, step: int) -> dict[str, Any]:
        """The place after `step` global steps of `epoch`, in samples, and what it is valid for."""
        samples = min(step * self.batch_size, self.samples_per_epoch)
        return {"epoch": epoch, "samples": samples, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[int, int]:
        """(epoch, step) to go on from. DataError where the state belongs to other data or another order."""
        for field, expected in self._identity().items():
            if state.get(field) != expected:
                found = f"found {state.get(field)} in the checkpoint, expected {expected}"
                raise DataError(f"cannot resume on {self.index.path}: {field}: {found}")
        return int(state["epoch"]), -(-int(state["samples"]) // self.batch_size)

    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.index.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "stride": self.stride,
            "shuffle_window": self.shuffle_window,
        }

    def _count(self, train_lengths: tuple[tuple[int, int], ...]) -> int:
        length, users = np.array(train_lengths, dtype=np.int64).reshape(-1, 2).T
        return int((window_count(length, self.max_length, self.stride) * users).sum())

    def _read(self, shard: int) -> Samples:
        block = _read_block(self.index, shard)
        row, start, stop, first_target = cut_windows(block.boundary[:, 0], self.max_length, self.stride)
        if len(row) != self._shard_samples[shard]:
            file, expected = self.index.sequence_shards[shard].file, self._shard_samples[shard]
            raise DataError(f"{file}: found {len(row)} samples, expected {expected} by its train_lengths")
        return Samples(block.item, block.user[row], block.starts[row], start, stop, first_target)


class _EpochSteps(Dataset):
    """Step number -> this rank's micro-batches. Keeps the span of the last step asked for."""

    def __init__(self, stream: TrainStream, plan: Plan):
        self.stream, self.plan = stream, plan
        self._span = -1
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> list[Batch]:
        span, number = self.plan.locate(step)
        if span != self._span:
            self._load(span)
        stream, chosen = self.stream, self._batches[number]
        share = deal(
            len(chosen),
            rank=stream.rank,
            world=stream.world,
            micro_batch_size=stream.micro_batch_size,
            accumulation=stream.accumulation,
        )
        micros = [pack_training(self._samples, _pick(chosen, rows)) for rows in share]
        return [stream.table.join(micro) for micro in micros] if stream.table is not None else micros

    def _load(self, span: int) -> None:
        pieces = self.plan.pieces(span)
        for piece in pieces:
            if piece.shard not in self._orders:
                self._orders[piece.shard] = self.plan.sample_order(piece.shard)
        self._orders = {piece.shard: self._orders[piece.shard] for piece in pieces}
        self._samples = Samples.concatenate(
            [self.stream._cache[p.shard].take(self._orders[p.shard][p.lo : p.hi]) for p in pieces]
        )
        self._batches = self.plan.batches(span, self._samples.length)
        self._span = span


class _ErrorsAsItems(Dataset):
    """Hands a DataError over as an item: the loader would put its worker's traceback into the message."""

    def __init__(self, steps: _EpochSteps):
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Batch] | DataError:
        try:
            return self.steps[step]
        except DataError as error:
            return error


class EvalStream:
    """The users who have a target in the `split` ("valid" or "test"), each once, dealt to the ranks.

    A user's target is the last item of the split's part, the history all before it, the input its newest
    `max_length`. Users come in the order of the index, sorted by input length within `SPAN_BATCHES` batches
    of all ranks.
    batch_size: rows of a rank's batch; all ranks have equally many batches, filled up with rows of weight 0.
    limit_users: evaluate this many users, evenly spread over the split's, always the same ones.
    users: number of users evaluated.
    """

    def __init__(
        self,
        index: Index,
        split: str,
        *,
        batch_size: int,
        rank: int,
        world: int,
        max_length: int,
        table: FeatureTable | None = None,
        limit_users: int | None = None,
    ):
        if split not in ("valid", "test"):
            raise ValueError(f"split: found {split!r}, expected 'valid' or 'test'")
        if min(batch_size, max_length) < 1:
            raise ValueError(f"batch_size, max_length: found {batch_size}, {max_length}, expected at least 1")
        _check_rank(rank, world)
        self.index, self.split, self.table = index, split, table
        self.batch_size, self.rank, self.world, self.max_length = batch_size, rank, world, max_length
        self._held = int(index.counts.get(f"{split}_users", 0))
        self.users = self._held if limit_users is None else min(limit_users, self._held)
        self._cache = SampleCache(self._read)

    def __len__(self) -> int:
        return -(-self.users // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self._batches())

    def _batches(self) -> Iterator[Batch]:
        for samples in self._spans():
            longest_first = np.argsort(-samples.length, kind="stable")
            share = deal(
                len(samples),
                rank=self.rank,
                world=self.world,
                micro_batch_size=self.batch_size,
                accumulation=-(-len(samples) // (self.batch_size * self.world)),
            )
            for rows in share:
                batch = pack_evaluation(samples, _pick(longest_first, rows))
                yield self.table.join(batch) if self.table is not None else batch

    def _spans(self) -> Iterator[Samples]:
        size = SPAN_BATCHES * self.batch_size * self.world
        held, seen = [], 0
        for shard in range(len(self.index.sequence_shards) if self.users else 0):
            samples = self._cache[shard]
            quota = (seen + np.arange(len(samples) + 1)) * self.users // self._held
            seen += len(samples)
            held.append(samples.take(np.diff(quota) > 0))
            while sum(map(len, held)) >= size:
                joined = Samples.concatenate(held)
                yield joined.take(slice(size))
                held = [joined.take(slice(size, None))]
        if self.users and seen != self._held:
            found = f"found {seen} users with a target, expected {self._held} by the index"
            raise DataError(f"{self.index.path}: split {self.split}: {found}")
        if any(map(len, held)):
            yield Samples.concatenate(held)

    def _read(self, shard: int) -> Samples:
        block = _read_block(self.index, shard)
        chosen = np.flatnonzero(evaluated(block.length, block.boundary)[self.split == "test"])
        stop = (block.boundary[:, 1] if self.split == "valid" else block.length)[chosen].astype(np.int64)
        start = np.maximum(stop - 1 - self.max_length, 0)
        return Samples(block.item, block.user[chosen], block.starts[chosen], start, stop, stop - 1)


def _read_block(index: Index, shard: int) -> Block:
    entry = index.sequence_shards[shard]
    return read_sequence_shard(index.local(entry), entry, index.videos)


def _pick(chosen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`chosen[rows]`, fillers kept."""
    return np.where(rows >= 0, chosen[np.maximum(rows, 0)], rows)


def _check_rank(rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank: found {rank}, expected 0 to {world - 1}")


def _unchanged(item: Any) -> Any:
    return item
