"""`--dry_run`: what a run will take, without training: steps, and memory per rank. Rough where it says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer import ds_config, options, run_directory
from trainer.batching import Batching
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.prepare import check_run, epoch_samples

if TYPE_CHECKING:
    from mealrec.config import MealRecConfig
    from shards import Index


def dry_run(config: RunConfig, *, world_size: int, on_gpu: bool) -> None:
    """Print the resolved configuration, batch arithmetic, steps and estimated memory; train nothing.

    Raises:
        UserError, shards.DataError, mealrec.ConfigError: a run could not start like this.
    """
    index, batching = check_run(config, world_size=world_size, on_gpu=on_gpu)
    if config.run.dir and not config.resume and (Path(config.run.dir) / run_directory.CONFIG).exists():
        raise UserError(
            f"{config.run.dir} holds a run already: continue it with --resume, or name another --run"
        )
    engine = ds_config.engine_config(config, batching, on_gpu=on_gpu, has_bf16=on_gpu, run_dir=None)
    samples = epoch_samples(index, config)
    steps = -(-samples // batching.batch_size)
    count = parameters(config.model)
    print(options.dump(config))
    print(
        f"data            {index.users} users, {index.videos} videos,"
        f" {index.frames} frames of width {index.width}"
    )
    print(f"ranks           {world_size} on {'GPUs' if on_gpu else 'the CPU'}")
    print(f"arithmetic      {batching}")
    print(f"steps           {steps} an epoch ({samples} samples), {steps * config.train.max_epochs} at most")
    print(f"model           {count} parameters")
    for line in memory(config, engine, batching, index, count).lines():
        print(line)


def parameters(config: MealRecConfig) -> int:
    """Return the exact number of parameters.

    It is linear in the number of videos, so two models of few videos give it for any number.
    """
    import torch

    from mealrec import MealRec

    def of(videos: int) -> int:
        content = torch.zeros(videos + 1, config.width) if config.has_content else None
        model = MealRec(dataclasses.replace(config, videos=videos), content=content)
        return sum(parameter.numel() for parameter in model.parameters())

    return of(32) + (of(33) - of(32)) * (config.videos - 32)


class BytesPerParameter(NamedTuple):
    """Memory of a rank in bytes per parameter; `transient` at the peak of a step, the others always."""

    parameters: float
    gradients: float
    optimizer: float
    transient: float


def bytes_per_parameter(stage: int, world_size: int, *, bf16: bool) -> BytesPerParameter:
    """Return the memory of a rank in bytes per parameter under ZeRO `stage`.

    Permanent are parameters and gradients, two fp32 moments of AdamW, and an fp32 master copy of the
    parameters with bf16 or ZeRO. ZeRO divides the optimiser's part (with the master copy) by the ranks from
    stage 1, gradients from stage 2, parameters from stage 3. bf16: parameters and gradients are in it.

    What is transient holds for the ID table, nearly all of a large model: it is one tensor, which ZeRO passes
    on whole. Measured by `bench.scaling`.
    """
    width = 2 if bf16 else 4
    share = {needed: world_size if stage >= needed else 1 for needed in (1, 2, 3)}
    gradients = width / share[2]
    if stage == 0:
        transient = 4.0  # AdamW's fp32 scratch
    elif stage == 3:
        transient = 4.0 * width  # table and gradient, whole, and a buffer for each
    else:
        transient = max(
            width, 8 / world_size
        )  # the reduction's buffer; then the share's fp32 gradient and scratch
        transient += width - gradients  # stage 2 divides the gradient only once it is whole
    optimizer = (12 if bf16 or stage else 8) / share[1]
    return BytesPerParameter(width / share[3], gradients, optimizer, transient)


@dataclass(frozen=True)
class Memory:
    """Bytes per rank, except `features`, which the ranks of a host share."""

    parameters: int
    gradients: int
    optimizer: int
    optimizer_on_host: bool
    transient: int
    activations: int
    content: int
    features: int

    def lines(self) -> list[str]:
        """Return the table that `--dry_run` prints, line by line."""
        where = "host memory" if self.optimizer_on_host else "a rank"
        return [
            f"parameters      {_size(self.parameters)} a rank",
            f"gradients       {_size(self.gradients)} a rank",
            f"optimiser       {_size(self.optimizer)} {where}",
            f"in passing      {_size(self.transient)} a rank: the ID table, whole while it is reduced",
            f"activations     {_size(self.activations)} a rank, roughly",
            f"content         {_size(self.content)} a rank: in the embeddings of all videos",
            f"feature table   {_size(self.features)} a host, memory-mapped",
        ]


def memory(config: RunConfig, engine: dict[str, Any], batching: Batching, index: Index, count: int) -> Memory:
    """Return the memory of a run of `count` parameters under the DeepSpeed configuration `engine`.

    Activations count the vectors that a layer keeps for its backward pass, which is rough.
    """
    bf16 = engine.get("bf16", {}).get("enabled", False)
    each = bytes_per_parameter(ds_config.zero_stage(engine), batching.world_size, bf16=bf16)
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
        parameters=int(count * each.parameters),
        gradients=int(count * each.gradients),
        optimizer=int(count * each.optimizer),
        optimizer_on_host=ds_config.offloads_optimizer(engine),
        transient=int((index.videos + 1) * model.dim * each.transient),
        activations=positions * vectors * model.dim * (2 if bf16 else 4),
        content=(index.videos + 1) * model.width * 4 if model.has_content else 0,
        features=(index.videos + 1) * index.frames * index.width * stored,
    )


def _size(count: int) -> str:
    return f"{count / 2**20:10.1f} MiB"
