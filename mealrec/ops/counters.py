"""Counters of random numbers: training's noise is a pure function of them, on any machine.

Key `(seed, stream)`, counter `(column // 4, row, sample_id, global_step)`, lane = `column mod 4` of
Philox4x32-10, with `row = position * M + frame`. Every field is below 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch

LIMIT = 1 << 32


class RandomStream(IntEnum):
    """One independent stream of random numbers for each use of randomness.

    Fixed constants: never renumber.
    """

    TCD_STEP = 1
    TCD_NOISE = 2
    TCD_NULL_GUIDANCE = 3
    TCD_NULL_CONDITION = 4
    NPD_STEP = 5
    NPD_NOISE = 6
    NEGATIVES = 7
    FEATURE_NOISE = 8
    CONTENT_DROPOUT = 9
    FRAME_ORDER = 10
    TCD_INFER_START = 16
    TCD_INFER_STEP = 17
    NPD_INFER_START = 18
    NPD_INFER_STEP = 19
    DROPOUT = 64  # + the index of the site


@dataclass(frozen=True)
class Counters:
    """Key and counters of an operation's rows.

    seed, step: int64 scalars (0-dim tensors, so that neither is baked into a captured graph); sample_id, row:
    int64 [R].
    """

    seed: torch.Tensor
    step: torch.Tensor
    sample_id: torch.Tensor
    row: torch.Tensor

    @cached_property
    def fault(self) -> str | None:
        """Which field is not in `[0, 2^32)`, if any; looked for once, as counters serve many draws."""
        for name in ("seed", "step", "sample_id", "row"):
            value = getattr(self, name)
            lowest, highest = (int(v) for v in torch.aminmax(value)) if value.numel() else (0, 0)
            if lowest < 0 or highest >= LIMIT:
                return f"{name} of a random number is outside [0, 2^32): {lowest} .. {highest}"
        return None


def check_counters(counters: Counters, columns: int) -> None:
    """Check that every field is in `[0, 2^32)`.

    On CPU tensors only (on a GPU it would wait for the device), and not while a graph is traced.

    Raises:
        ValueError: a field is outside.
    """
    if columns >= 4 * LIMIT:
        raise ValueError(f"{columns} columns of random numbers, expected fewer than 2^34")
    if counters.row.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if counters.fault is not None:
        raise ValueError(counters.fault)
