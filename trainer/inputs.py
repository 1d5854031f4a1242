"""The data of a run or an evaluation: index, feature table, streams, and the model that follows from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mealrec import MealRec, MealRecConfig
from shards import EvalStream, FeatureTable, Index, TrainStream
from trainer import dist
from trainer.batching import Batching
from trainer.config import DataConfig, EvalConfig
from trainer.errors import UserError

# With `data.feature_memory auto` the features lie on the device where they take at most this share of its
# free memory.
DEVICE_SHARE = 0.25


def open_index(data: str | Path) -> Index:
    """What a data set says of itself. Raises DataError where there is none."""
    return Index.load(data)


class Inputs:
    """A data set opened for one rank."""

    def __init__(
        self, data: DataConfig, model: MealRecConfig, world: dist.World, index: Index | None = None
    ) -> None:
        """
        Args:
            model: the user's model configuration; `self.model` is a copy with what the data set decides
                filled in.

        Raises:
            DataError: a fault of the data set. UserError: none is named.
        """
        if not data.path:
            raise UserError("no data set: name one with --data DIR")
        self.data, self.world = data, world
        self.index = Index.load(data.path) if index is None else index
        self.model = model_config(model, self.index, data.max_length)
        self.table = _table(self.index, self.model, data, world)

    @property
    def join(self) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None:
        """Joins features in device memory to a batch there; None where the streams do it on the host."""
        return self.table.join if self.table is not None and self.table.device.type != "cpu" else None

    @property
    def _host_table(self) -> Any:
        return None if self.join else self.table

    def build_model(self, seed: int) -> MealRec:
        """The model with fresh weights, which depend on its configuration and `seed` alone."""
        return MealRec(
            self.model, seed=seed, train_counts=self.train_counts(), feature_std=self._feature_std()
        )

    def _feature_std(self) -> torch.Tensor | None:
        """float32 [V]: standard deviation over all frames of training videos; None where nobody asks."""
        if not self.model.has_video or self.model.feature_noise == 0:
            return None
        chosen = (self.train_counts().numpy() > 0) & (self.table.frames > 0)
        count, total, squares = 0, 0.0, 0.0
        for rows in np.array_split(np.flatnonzero(chosen), max(1, int(chosen.sum()) // 1024)):
            real = np.arange(self.index.frames) < self.table.frames[rows, None]
            frames = self.table.features[rows][real].astype(np.float64)
            count, total, squares = count + len(frames), total + frames.sum(0), squares + (frames**2).sum(0)
        mean = total / max(count, 1)
        return torch.from_numpy(np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))).float()

    def train_counts(self) -> torch.Tensor:
        """int64 [I+1]."""
        return torch.from_numpy(self.index.train_counts())

    def train_stream(self, batching: Batching, seed: int) -> TrainStream:
        """This rank's share of the training samples."""
        return TrainStream(
            self.index,
            batch_size=batching.batch_size,
            micro_batch_size=batching.micro_batch_size,
            rank=self.world.rank,
            world=self.world.size,
            max_length=self.data.max_length,
            stride=self.data.window_stride,
            seed=seed,
            shuffle_window=self.data.shuffle_window,
            table=self._host_table,
            workers=self.data.workers,
        )

    def eval_stream(self, split: str, settings: EvalConfig) -> EvalStream:
        """This rank's share of the users of "valid" or "test"."""
        return EvalStream(
            self.index,
            split,
            batch_size=settings.batch_size,
            rank=self.world.rank,
            world=self.world.size,
            max_length=self.data.max_length,
            table=self._host_table,
        )

    def prepare(self, batch: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """An evaluation batch on the device, with features and `seed`; always step 0: time plays no part."""
        device = self.world.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self.join is not None:
            batch = self.join(batch)
        batch["seed"] = torch.tensor(seed, dtype=torch.int64, device=device)
        batch["global_step"] = torch.zeros((), dtype=torch.int64, device=device)
        return batch


def model_config(model: MealRecConfig, index: Index, max_length: int) -> MealRecConfig:
    """A copy of `model` with videos, frames, width and max_length of the data set."""
    model = copy.deepcopy(model)
    model.videos, model.max_length = index.videos, max_length
    model.frames, model.width = index.frames, index.width
    return model


def _table(index: Index, model: MealRecConfig, data: DataConfig, world: dist.World) -> FeatureTable | None:
    if not model.has_video:
        return None
    table = FeatureTable.open(index, data.cache_dir)
    if table is None or world.device.type == "cpu" or data.feature_memory == "host":
        return table
    free, _ = torch.cuda.mem_get_info(world.device)
    if data.feature_memory == "device" or table.nbytes <= DEVICE_SHARE * free:
        if data.workers:
            raise UserError("--data.workers cannot join in device memory: add --data.feature_memory host")
        return table.to(world.device)
    return table
