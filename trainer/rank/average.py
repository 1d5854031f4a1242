"""The exponential moving average of a run's weights: what is evaluated, kept as best, and used later.

A rank averages what it holds of each parameter: all of it with ZeRO 0 to 2, its partition with ZeRO 3. The
average is in float32 beside the parameters. It is no part of DeepSpeed's files: a checkpoint's
`weights.safetensors` holds it whole, so it can be taken up by any number of ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as torch_dist

from trainer import ds_config

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class WeightAverage:
    """`average = d average + (1 - d) weights` after each step, `d = min(decay, (1 + step) / (10 + step))`.

    The smaller decay of the first steps lets the average forget the initial weights. It is a function of the
    step alone, so nothing but the average needs saving.
    """

    def __init__(self, engine: DeepSpeedEngine, decay: float) -> None:
        """Start with the engine's weights."""
        self.engine, self.decay = engine, decay
        self.sharded = ds_config.zero_stage(engine.config) == 3
        self.names, self.parameters = zip(*engine.module.named_parameters(), strict=True)
        self.values = [held.detach().float().clone() for held in self._held()]

    def _held(self) -> list[torch.Tensor]:
        """What this rank holds of each parameter."""
        return [p.ds_tensor.data if self.sharded else p.data for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step with index `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [held.float() for held in self._held()], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with the average in place of the weights."""
        kept = [held.clone() for held in self._held()]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(kept)

    def full(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The average of every parameter by name, whole, one after the other, float32; for every rank."""
        for name, parameter, value in zip(self.names, self.parameters, self.values, strict=True):
            if not self.sharded:
                yield name, value
                continue
            parts = value.new_empty(torch_dist.get_world_size() * value.numel())
            torch_dist.all_gather_into_tensor(parts, value.flatten())
            yield name, parts[: parameter.ds_numel].view(parameter.ds_shape)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up an average, float32 tensors by the names of parameters."""
        for name, value in zip(self.names, self.values, strict=True):
            full = state[name].flatten()
            if self.sharded:  # the last partition has padding
                full = full[torch_dist.get_rank() * value.numel() :][: value.numel()]
            value.flatten()[: full.numel()].copy_(full)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        torch._foreach_copy_(self._held(), values)
        if self.sharded:
            # Small parameters are held whole, too, as ZeRO 3 leaves them after a step.
            whole = self.engine.optimizer.persistent_parameters
            if whole:
                whole[0].partition(whole)
                whole[0].all_gather(whole)
