"""What a run will take: steps an epoch, and memory a rank. Rough where it says so; shown by `--dry_run`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.batching import Batching
from trainer.config import RunConfig
from trainer.errors import UserError

if TYPE_CHECKING:
    from mealrec.config import MealRecConfig
    from shards import Index


def epoch_samples(index: Index, max_length: int, stride: int) -> int:
    """Training samples (windows) an epoch, from the index's histogram of training lengths.

    Raises:
        UserError: where there is nothing to train on, or the window arithmetic does not hold.
    """
    import numpy as np

    from shards.plan import window_count

    lengths = np.array(
        [pair for shard in index.sequence_shards for pair in shard.train_lengths], dtype=np.int64
    )
    lengths = lengths.reshape(-1, 2)
    try:
        samples = int((window_count(lengths[:, 0], max_length, stride) * lengths[:, 1]).sum())
    except ValueError as error:
        raise UserError(f"--data.max_length {max_length}, --data.window_stride {stride}: {error}") from None
    if samples == 0:
        raise UserError(
            f"{index.path} holds nothing to train on: no user has two videos in the training part"
        )
    return samples


def parameters(config: MealRecConfig) -> int:
    """Exact number of parameters. It is linear in the videos: two models of few videos tell it for any."""
    from mealrec import MealRec

    few, more = (
        sum(p.numel() for p in MealRec(dataclasses.replace(config, videos=videos)).parameters())
        for videos in (32, 33)
    )
    return few + (more - few) * (config.videos - 32)


def bytes_a_parameter(stage: int, world: int, *, bf16: bool) -> tuple[float, float, float, float]:
    """(parameters, gradients, optimiser, in passing) of a rank, in bytes a parameter.

    What stands: parameters and gradients in the compute precision, two fp32 moments of AdamW, and an fp32
    master copy of the parameters with bf16 or ZeRO. ZeRO divides the optimiser's part (with the master copy)
    by the ranks from stage 1, gradients from stage 2, parameters from stage 3.

    What passes, at the height of a step, holds for the ID table, nearly all of a large model: it is one
    tensor, which ZeRO hands over whole. Found by measurement (`bench.scaling`).
    """
    width = 2 if bf16 else 4
    share = {needed: world if stage >= needed else 1 for needed in (1, 2, 3)}
    standing = (width / share[3], width / share[2], (12 if bf16 or stage else 8) / share[1])
    if stage == 0:
        passing = 4.0  # AdamW's fp32 scratch
    elif stage == 3:
        passing = 4.0 * width  # table and gradient, whole, and a buffer for each
    else:
        passing = max(width, 8 / world)  # the reduction's buffer; then the share's fp32 gradient and scratch
        passing += width - standing[1]  # stage 2 hands the gradient over when it is whole
    return (*standing, passing)


@dataclass(frozen=True)
class Memory:
    """Bytes a rank, but for `features`, which the ranks of a host share."""

    parameters: int
    gradients: int
    optimizer: int
    optimizer_on_host: bool
    passing: int
    activations: int
    features: int

    def lines(self) -> list[str]:
        where = "host memory" if self.optimizer_on_host else "a rank"
        return [
            f"parameters      {_size(self.parameters)} a rank",
            f"gradients       {_size(self.gradients)} a rank",
            f"optimiser       {_size(self.optimizer)} {where if self.optimizer_on_host else 'a rank'}",
            f"in passing      {_size(self.passing)} a rank: the ID table, whole while it is reduced",
            f"activations     {_size(self.activations)} a rank, roughly",
            f"feature table   {_size(self.features)} a host, memory-mapped",
        ]


def memory(config: RunConfig, engine: dict[str, Any], batching: Batching, index: Index, count: int) -> Memory:
    """Memory of a run of `count` parameters under the DeepSpeed configuration `engine`.

    Activations count the vectors that a layer keeps for its backward pass, which is rough.
    """
    bf16 = engine.get("bf16", {}).get("enabled", False)
    zero = engine.get("zero_optimization", {})
    each = bytes_a_parameter(int(zero.get("stage", 0)), batching.world, bf16=bf16)
    model = config.model
    positions = batching.micro_batch_size * model.max_length
    vectors = 4 + 16 * model.backbone.layers + (6 + 2 * model.npd.hidden if model.npd.enabled else 0)
    if model.has_tcd:
        vectors += model.frames * (8 + 16 * (1 + model.tcd.layers))
    elif model.has_video:
        vectors += 2 * model.frames
    features = index.features
    stored = 2 if features and features.dtype == "float16" else 4
    return Memory(
        parameters=int(count * each[0]),
        gradients=int(count * each[1]),
        optimizer=int(count * each[2]),
        passing=int((index.videos + 1) * model.dim * each[3]),
        optimizer_on_host=(zero.get("offload_optimizer") or {}).get("device", "none") != "none",
        activations=positions * vectors * model.dim * (2 if bf16 else 4),
        features=(index.videos + 1) * index.frames * index.width * stored,
    )


def _size(count: int) -> str:
    return f"{count / 2**20:10.1f} MiB"
