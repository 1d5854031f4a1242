"""Noise schedules: tables in float32 whatever the compute dtype, built once per (schedule, device).

`abar_t = prod_{s<=t} (1 - beta_s)`, steps `0..T-1`, `abar_{-1} = 1`, betas clipped at .9999.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

MAX_BETA = 0.9999


@dataclass(frozen=True)
class Schedule:
    """Name and parameters of a schedule; hashable, so that its tables are built once."""

    name: str = "linear"
    steps: int = 10
    beta_start: float = 1e-3
    beta_end: float = 2e-2


def alphas_bar(schedule: Schedule) -> np.ndarray:
    """`abar` float64 [T].

    linear: betas evenly from `beta_start` to `beta_end` [DDPM]; cosine: `abar = f((t+1)/T) / f(0)`,
    `f(s) = cos^2((s + .008) / 1.008 * pi/2)` [Improved DDPM]; sqrt: `abar = 1 - sqrt((t+1)/T + 1e-4)`, floor
    1e-4 [Diffusion-LM].
    """
    T = schedule.steps
    if schedule.name == "linear":
        return np.cumprod(1 - np.minimum(np.linspace(schedule.beta_start, schedule.beta_end, T), MAX_BETA))
    edges = np.arange(T + 1) / T
    if schedule.name == "cosine":
        target = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    elif schedule.name == "sqrt":
        target = np.maximum(1 - np.sqrt(edges + 1e-4), 1e-4)
        target[0] = 1.0
    else:
        raise ValueError(f"unknown schedule {schedule.name!r}, expected linear, cosine or sqrt")
    return np.cumprod(1 - np.minimum(1 - target[1:] / target[:-1], MAX_BETA))


class Tables(NamedTuple):
    """Float32 tables on one device.

    Each has T+1 entries, entry t+1 belonging to step t, so that step -1 is entry 0 (of `abar`: 1).
    """

    abar: torch.Tensor
    signal: torch.Tensor  # sqrt(abar)
    noise: torch.Tensor  # sqrt(1 - abar)


def tables(schedule: Schedule, device: torch.device) -> Tables:
    """The schedule's tables, float32 [T+1] each, on `device`."""
    fields = (schedule.name, schedule.steps, schedule.beta_start, schedule.beta_end, device)
    make: Callable[..., torch.Tensor] = _traced_table if torch.compiler.is_compiling() else _table
    if torch.compiler.is_exporting():  # a graph that others run holds the numbers; traced ones are not kept
        make = _table.__wrapped__
    return Tables(*(make(part, *fields) for part in ("abar", "signal", "noise")))


@lru_cache(maxsize=256)
def _table(
    part: str, name: str, steps: int, beta_start: float, beta_end: float, device: torch.device
) -> torch.Tensor:
    abar = np.concatenate([[1.0], alphas_bar(Schedule(name, steps, beta_start, beta_end))])
    values = {"abar": abar, "signal": np.sqrt(abar), "noise": np.sqrt(1 - abar)}[part]
    return torch.tensor(values, dtype=torch.float32, device=device)


# An operator to torch.compile, which cannot trace how a table is made. It returns a copy, as a compiled graph
# may write over a result that it owns.
@torch.library.custom_op("mealrec::schedule_table", mutates_args=())
def _traced_table(
    part: str, name: str, steps: int, beta_start: float, beta_end: float, device: torch.device
) -> torch.Tensor:
    return _table(part, name, steps, beta_start, beta_end, device).clone()


@_traced_table.register_fake
def _(
    part: str, name: str, steps: int, beta_start: float, beta_end: float, device: torch.device
) -> torch.Tensor:
    return torch.empty(steps + 1, dtype=torch.float32, device=device)


def infer_start(schedule: Schedule, wanted: int = -1, signal: float = 0.5) -> int:
    """The step at which inference starts: `wanted`, or for -1 the last step with `abar >= signal` [ours].

    The state must still hold what is to be refined: from an `abar` near zero the reverse chain would invent
    content.
    """
    if wanted >= 0:
        return wanted
    return max(int(np.count_nonzero(alphas_bar(schedule) >= signal)) - 1, 0)
