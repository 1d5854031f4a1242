"""The training samples of one rank, in the order of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from shards.errors import DataError
from shards.format.index import Index
from shards.stream.bad_shards import ShardReader
from shards.stream.batch import Batch, pack_training, page_locked
from shards.stream.buckets import round_up_positions
from shards.stream.feature_table import FeatureTable
from shards.stream.plan import (
    Plan,
    check_rank,
    cut_windows,
    deal,
    pick,
    resolve_accumulation,
    resolve_stride,
)
from shards.stream.prefetch import prefetch
from shards.stream.samples import SampleCache, Samples, shard_samples, training_samples

T = TypeVar("T")


class TrainStream:
    """A rank's share of the training samples, in the order of `plan.Plan`.

    batch_size: samples of a global batch; micro_batch_size: rows of a rank's micro-batch. The rest is
    accumulated.
    max_length: inputs of a sample; stride: targets between the windows of a long sequence, 0 = half of
    max_length.
    shuffle_window: global batches that are in memory, mixed and sorted by length at a time.
    pin_memory: batches come in page-locked memory.
    workers: processes that prepare batches; 0 = a thread. They change neither content nor order.
    few_sizes: sizes that depend on the data are rounded up to few, for compiled code.
    max_bad_shards: shards that may be unreadable: their samples become rows of weight 0.

    Raises:
        ValueError: the sizes do not fit together. DataError: there is nothing to train on.
    """

    def __init__(
        self,
        index: Index,
        *,
        batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        max_length: int,
        stride: int = 0,
        seed: int,
        shuffle_window: int = 64,
        table: FeatureTable | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        few_sizes: bool = False,
        max_bad_shards: int = 0,
    ):
        self.accumulation = resolve_accumulation(batch_size, micro_batch_size, world_size)
        check_rank(rank, world_size)
        if workers and table is not None and table.device.type != "cpu":
            raise ValueError(f"workers: found {workers}, expected 0 with a table on {table.device}")
        self.index, self.table, self.workers = index, table, workers
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.max_length, self.stride = max_length, resolve_stride(max_length, stride)
        self.pin_memory, self.few_sizes = pin_memory, few_sizes
        self.seed, self.shuffle_window = seed, shuffle_window
        self.samples_per_epoch = training_samples(index, self.max_length, self.stride)
        self._shard_samples = shard_samples(index, self.max_length, self.stride)
        self._shards = ShardReader(index, max_bad_shards)
        self._cache = SampleCache(self._read)
        self.steps_per_epoch = self.plan(0).steps

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
            loaded = (steps[step] for step in order)
            yield from prefetch(map(_all_page_locked, loaded) if self.pin_memory else loaded)
            return
        loader = DataLoader(
            _ErrorsAsItems(steps),
            batch_size=None,
            sampler=order,
            num_workers=self.workers,
            collate_fn=_unchanged,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # its own: the loader would draw from the run's
        )
        for item in loader:
            if isinstance(item, DataError):
                raise item
            yield item

    def samples_until(self, epoch: int, step: int) -> int:
        """Samples of all epochs before `epoch` and of its first `step` global batches."""
        return epoch * self.samples_per_epoch + min(step * self.batch_size, self.samples_per_epoch)

    def state_dict(self, epoch: int, step: int) -> dict[str, Any]:
        """The position after `step` global steps of `epoch`, in samples, and what it is valid for."""
        return {"epoch": epoch, "samples": self.samples_until(0, step), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[int, int]:
        """(epoch, step) to go on from. DataError where the state belongs to other data or another order."""
        for field, expected in self._identity().items():
            if state.get(field) != expected:
                difference = f"found {state.get(field)} in the checkpoint, expected {expected}"
                raise DataError(f"cannot resume on {self.index.path}: {field}: {difference}")
        return int(state["epoch"]), -(-int(state["samples"]) // self.batch_size)

    def shard(self, number: int) -> Samples:
        """The samples of a sequence shard, from memory where they are there."""
        return self._cache[number]

    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.index.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "stride": self.stride,
            "shuffle_window": self.shuffle_window,
        }

    def _read(self, shard: int) -> Samples:
        entry, expected = self.index.sequence_shards[shard], self._shard_samples[shard]
        block = self._shards.read(shard)
        if block is None:
            return Samples.missing(expected)
        row, start, stop, first_target = cut_windows(block.boundary[:, 0], self.max_length, self.stride)
        if len(row) != expected:
            raise DataError(
                f"{entry.file}: found {len(row)} samples, expected {expected} by its train_lengths"
            )
        return Samples(block.item, block.user[row], block.starts[row], start, stop, first_target)


class _EpochSteps(Dataset[list[Batch]]):
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
            world_size=stream.world_size,
            micro_batch_size=stream.micro_batch_size,
            accumulation=stream.accumulation,
        )
        micros = [pack_training(self._samples, pick(chosen, rows)) for rows in share]
        if stream.few_sizes:
            micros = [round_up_positions(micro, stream.max_length) for micro in micros]
        if stream.table is None:
            return micros
        return [stream.table.join(micro, few_sizes=stream.few_sizes) for micro in micros]

    def _load(self, span: int) -> None:
        pieces = self.plan.pieces(span)
        for piece in pieces:
            if piece.shard not in self._orders:
                self._orders[piece.shard] = self.plan.sample_order(piece.shard)
        self._orders = {piece.shard: self._orders[piece.shard] for piece in pieces}
        self._samples = Samples.concatenate(
            [self.stream.shard(p.shard).take(self._orders[p.shard][p.lo : p.hi]) for p in pieces]
        )
        self._batches = self.plan.batches(span, self._samples.length)
        self._span = span


class _ErrorsAsItems(Dataset[list[Batch] | DataError]):
    """Returns a DataError as an item: the loader would put its worker's traceback into a raised one."""

    def __init__(self, steps: _EpochSteps):
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Batch] | DataError:
        try:
            return self.steps[step]
        except DataError as error:
            return error


def _all_page_locked(batches: list[Batch]) -> list[Batch]:
    return [page_locked(batch) for batch in batches]


def _unchanged(item: T) -> T:
    return item
