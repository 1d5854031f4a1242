"""The data of a run or an evaluation: index, feature table, streams, and the model that follows from them."""

from __future__ import annotations

import copy
import uuid
from pathlib import Path
from typing import cast

import torch

import mealrec
import shards
from mealrec import MealRec, MealRecConfig
from shards import EvalStream, FeatureTable, Index, TrainStream
from trainer import distributed
from trainer.batching import Batching
from trainer.config import DataConfig, EvalConfig
from trainer.errors import UserError

DEVICE_SHARE = 0.25
"""Of a device's free memory: with `data.feature_memory auto` features up to this share go there."""


def open_index(data: str | Path) -> Index:
    """Return what a data set says of itself.

    Raises:
        DataError: there is none, or a fault in it.
    """
    return Index.load(data)


class Inputs:
    """A data set opened for one rank."""

    def __init__(self, data: DataConfig, model: MealRecConfig, world: distributed.World, seed: int) -> None:
        """Open the data set and its feature table.

        Args:
            model: the user's model configuration; `self.model` is a copy, completed by what the data set
                decides.
            seed: of weights, sample order and noise.

        Raises:
            DataError: a fault of the data set.
            UserError: none is named.
        """
        if not data.path:
            raise UserError("no data set: name one with --data DIR")
        self.data, self.world, self.seed = data, world, seed
        self.index = Index.load(data.path)
        self.model = model_config(model, self.index, data.max_length)
        self.table = _table(self.index, self.model, data, world)

    def build_model(self) -> MealRec:
        """Return the model with fresh weights, which depend on its configuration and the seed alone."""
        return MealRec(
            self.model,
            seed=self.seed,
            train_counts=self.train_counts(),
            content=content_of(self.model, self.table),
        )

    def train_counts(self) -> torch.Tensor:
        """Return each video's events in the training part, int64 [I+1]."""
        return torch.from_numpy(self.index.train_counts())

    def train_stream(self, batching: Batching, *, few_sizes: bool = False) -> TrainStream:
        """Return this rank's share of the training samples, with sizes rounded up to few where asked for."""
        return TrainStream(
            self.index,
            batch_size=batching.batch_size,
            micro_batch_size=batching.micro_batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            max_length=self.data.max_length,
            stride=self.data.window_stride,
            seed=self.seed,
            shuffle_window=self.data.shuffle_window,
            table=self.table,
            pin_memory=self.world.on_gpu,
            workers=self.data.workers,
            few_sizes=few_sizes,
            max_bad_shards=self.data.max_bad_shards,
        )

    def eval_stream(self, split: str, settings: EvalConfig) -> EvalStream:
        """Return this rank's share of the users of "valid" or "test"."""
        return EvalStream(
            self.index,
            split,
            batch_size=settings.batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            max_length=self.data.max_length,
            table=self.table,
            pin_memory=self.world.on_gpu,
            max_bad_shards=self.data.max_bad_shards,
        )

    def on_device(self, batch: shards.Batch, step: int = 0) -> mealrec.Batch:
        """Return a loaded batch as the model reads it: on the device, features joined, with seed and step.

        Evaluation is always at step 0: its noise does not depend on when it runs.
        """
        return on_device(batch, self.world.device, self.seed, step, self.table)


def on_device(
    batch: shards.Batch,
    device: torch.device,
    seed: int,
    step: int = 0,
    table: FeatureTable | None = None,
) -> mealrec.Batch:
    """Return a loaded batch as the model reads it; `table` joins features that it holds on the device."""
    fields = cast(dict[str, torch.Tensor], batch)
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in fields.items()}
    if table is not None and "video" in moved:
        moved = cast(dict[str, torch.Tensor], table.gather(cast(shards.Batch, moved)))
    # Filled on the device: a copy of a number would make the host wait.
    moved["seed"] = torch.full((), seed, dtype=torch.int64, device=device)
    moved["global_step"] = torch.full((), step, dtype=torch.int64, device=device)
    return cast(mealrec.Batch, moved)


def content_of(model: MealRecConfig, table: FeatureTable | None) -> torch.Tensor | None:
    """Mean of each video's real frames, float32 [I+1, V]; None where the embeddings have no content."""
    return None if table is None or not model.has_content else torch.from_numpy(table.means())


def model_config(model: MealRecConfig, index: Index, max_length: int) -> MealRecConfig:
    """Return a copy of `model` with videos, frames, width and max_length of the data set."""
    model = copy.deepcopy(model)
    model.videos, model.max_length = index.videos, max_length
    model.frames, model.width = index.frames, index.width
    return model


def _table(
    index: Index, model: MealRecConfig, data: DataConfig, world: distributed.World
) -> FeatureTable | None:
    if not model.has_video:
        return None
    session = distributed.broadcast_object(uuid.uuid4().hex)
    table = FeatureTable.open(index, data.cache_dir, verify=data.verify, session=session)
    if table is None or world.device.type == "cpu" or data.feature_memory == "host":
        return table
    free, _ = torch.cuda.mem_get_info(world.device)
    if data.feature_memory == "device" or table.nbytes <= DEVICE_SHARE * free:
        if data.workers:
            raise UserError("--data.workers cannot join in device memory: add --data.feature_memory host")
        return table.to(world.device)
    return table
