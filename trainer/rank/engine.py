"""The DeepSpeed engine around the model: optimiser, parameter groups, learning rate."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer import ds_config
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.evaluation.weights import ITEM_TABLE

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def build(
    model: nn.Module, train: TrainConfig, config: Mapping[str, Any], *, universal: bool = False
) -> DeepSpeedEngine:
    """Return an engine over `model` (ZeRO 0 to 3), with torch's AdamW unless `config` names an optimiser.

    Args:
        config: the DeepSpeed JSON as a dictionary.
        universal: the checkpoint that will be loaded was converted from another number of ranks.

    Raises:
        UserError: offloading without a C++ compiler.
    """
    import deepspeed

    config = dict(config)
    if universal:
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    groups = parameter_groups(model, train)
    optimizer = None
    if not config.get("optimizer"):
        optimizer = _adamw(groups, train, offload=ds_config.offloads_optimizer(config))
    else:
        # The JSON's weight decay is for the weights; the other groups keep theirs.
        groups[0].pop("weight_decay")
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, model_parameters=groups, config=config
    )
    if type(engine.optimizer).__name__ == "FP16_UnfusedOptimizer" and engine.global_rank == 0:
        logging.getLogger("mealrec").warning(
            "bf16 or fp16 without ZeRO: DeepSpeed updates the parameters one by one and waits for each."
            ' "zero_optimization": {"stage": 1} in the JSON avoids it, or "torch_autocast" in place of "bf16"'
        )
    if engine.world_size == 1 and not ds_config.zero_stage(config):
        # There is nothing to add up, for which DeepSpeed would copy all gradients into a buffer and back.
        engine.enable_backward_allreduce = False
    return engine


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Return three groups: matrices; biases, norms and small tables, which do not decay; the ID table.

    A model that ranks by content alone has no table, and so two groups.
    """
    groups: tuple[list[nn.Parameter], ...] = ([], [], [])
    for name, parameter in model.named_parameters():
        groups[group_of(name, parameter.ndim)].append(parameter)
    decays = (train.weight_decay, 0.0, train.table_decay)
    return [
        {"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True) if group
    ]


def group_of(name: str, ndim: int) -> int:
    """Return the number of a parameter's group, by its name and its dimensions."""
    if name == ITEM_TABLE:
        return 2
    return 0 if ndim >= 2 and name.endswith("weight") else 1


def learning_rates(step: int, total_steps: int, train: TrainConfig) -> tuple[float, float, float]:
    """Return the rates of the three groups for the step with index `step`.

    A pure function, so that nothing of it needs saving: linear warm-up over `warmup_steps`, then constant, or
    down to 0 at `total_steps` by a cosine or a line.
    """
    left = total_steps - train.warmup_steps
    done = min(1.0, (step - train.warmup_steps) / left) if left > 0 else 1.0
    if step < train.warmup_steps:
        share = (step + 1) / train.warmup_steps
    elif train.decay == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = 1 - done if train.decay == "linear" else 1.0
    return train.lr * share, train.lr * share, (train.table_lr or train.lr) * share


def set_learning_rates(engine: DeepSpeedEngine, rates: Sequence[float]) -> None:
    """Set the rate of each parameter group for the next optimiser step; the last one may not be there."""
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=False):
        group["lr"] = rate


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the 2-norm over all gradients, float32; for ZeRO 0, where each rank has them all, averaged."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).float() if gradients else torch.zeros(())


def skip_step(engine: DeepSpeedEngine) -> None:
    """Take the place of a step without using its gradient: DeepSpeed goes on with the next batch.

    ZeRO's optimisers leave a step out, and clean up after it, when they find that the gradient overflowed.
    Others are not called at all.
    """
    optimizer = engine.optimizer
    name = "has_overflow" if hasattr(optimizer, "has_overflow") else "step"
    before = vars(optimizer).get(name)
    setattr(optimizer, name, lambda *args, **kwargs: True)
    try:
        engine.step()
    finally:
        if before is None:
            delattr(optimizer, name)
        else:
            setattr(optimizer, name, before)


def _adamw(groups: list[dict[str, Any]], train: TrainConfig, *, offload: bool) -> torch.optim.Optimizer:
    if not offload:
        return torch.optim.AdamW(groups, lr=train.lr, fused=True)
    if shutil.which("ninja") is None or shutil.which(os.environ.get("CXX", "c++")) is None:
        raise UserError(
            "--train.offload_optimizer compiles DeepSpeed's CPU Adam at first use:"
            " install a C++ compiler and ninja, or leave offloading out"
        )
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, lr=train.lr, adamw_mode=True)
    return optimizer
