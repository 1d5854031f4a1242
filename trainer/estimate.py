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


@dataclass(frozen=True)
class Memory:
    """Bytes a rank, but for `features`, which the ranks of a host share."""

    parameters: int
    gradients: int
    optimizer: int
    optimizer_on_host: bool
    activations: int
    features: int

    def lines(self) -> list[str]:
        where = "host memory" if self.optimizer_on_host else "a rank"
        return [
            f"parameters      {_size(self.parameters)} a rank",
            f"gradients       {_size(self.gradients)} a rank",
            f"optimiser       {_size(self.optimizer)} {where if self.optimizer_on_host else 'a rank'}",
            f"activations     {_size(self.activations)} a rank, roughly",
            f"feature table   {_size(self.features)} a host, memory-mapped",
        ]


def memory(config: RunConfig, engine: dict[str, Any], batching: Batching, index: Index, count: int) -> Memory:
    """Memory of a run of `count` parameters under the DeepSpeed configuration `engine`.

    Exact up to DeepSpeed's buckets: parameters and gradients in the compute precision, two fp32 moments of
    AdamW, and an fp32 master copy of the parameters with bf16 or ZeRO. ZeRO divides the optimiser's part
    (with the master copy) by the ranks from stage 1, gradients from stage 2, parameters from stage 3.
    Activations count the vectors that a layer keeps for its backward pass, which is rough.
    """
    bf16 = engine.get("bf16", {}).get("enabled", False)
    zero = engine.get("zero_optimization", {})
    stage = int(zero.get("stage", 0))
    width, optimizer = (2, 12) if bf16 else (4, 12 if stage else 8)
    share = {needed: batching.world if stage >= needed else 1 for needed in (1, 2, 3)}
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
        parameters=count * width // share[3],
        gradients=count * width // share[2],
        optimizer=count * optimizer // share[1],
        optimizer_on_host=(zero.get("offload_optimizer") or {}).get("device", "none") != "none",
        activations=positions * vectors * model.dim * width,
        features=(index.videos + 1) * index.frames * index.width * stored,
    )


def _size(count: int) -> str:
    return f"{count / 2**20:10.1f} MiB"
