"""The place of a random number: training's noise is a pure function of it, on any machine.

Key `(seed, stream)`, counter `(column // 4, row, sample_id, global_step)`, lane = `column mod 4` of
Philox4x32-10, with `row = position * M + frame`. Every field is below 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

LIMIT = 1 << 32


class Stream(IntEnum):
    """Fixed constants: one independent stream for each use of randomness. Never renumber."""

    TCD_STEP = 1
    TCD_NOISE = 2
    TCD_NULL_GUIDANCE = 3
    TCD_NULL_CONDITION = 4
    NPD_STEP = 5
    NPD_NOISE = 6
    NEGATIVES = 7
    FEATURE_NOISE = 8
    TCD_INFER_START = 16
    TCD_INFER_STEP = 17
    NPD_INFER_START = 18
    NPD_INFER_STEP = 19
    DROPOUT = 64  # + the index of the site


@dataclass(frozen=True)
class Place:
    """Where the rows of an operation stand.

    seed, step: int64 scalars (0-dim tensors, so that neither is baked into a captured graph); sample_id, row:
    int64 [R].
    """

    seed: torch.Tensor
    step: torch.Tensor
    sample_id: torch.Tensor
    row: torch.Tensor


def check(place: Place, columns: int) -> None:
    """Refuses a field outside `[0, 2^32)` with a ValueError; on CPU tensors only (it would make a GPU
    wait), and not while a graph is traced.
    """
    if place.row.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for name in ("seed", "step", "sample_id", "row"):
        value = getattr(place, name)
        if value.numel() and (int(value.min()) < 0 or int(value.max()) >= LIMIT):
            raise ValueError(
                f"{name} of a random number is outside [0, 2^32): {int(value.min())} .. {int(value.max())}"
            )
    if columns >= 4 * LIMIT:
        raise ValueError(f"{columns} columns of random numbers, expected fewer than 2^34")
