"""Counters of random numbers: training's noise is a pure function of them, on any machine.

Key `(seed, stream)`, counter `(column // 4, row, sample_id, global_step)`, lane = `column mod 4` of
Philox4x32-10, with `row = position * M + frame`. Every field is below 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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


def check_counters(counters: Counters, columns: int) -> None:
    """Check that every field is in `[0, 2^32)`.

    On CPU tensors only (on a GPU it would wait for the device), and not while a graph is traced.

    Raises:
        ValueError: a field is outside.
    """
    if counters.row.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for name in ("seed", "step", "sample_id", "row"):
        value = getattr(counters, name)
        if value.numel() and (int(value.min()) < 0 or int(value.max()) >= LIMIT):
            raise ValueError(
                f"{name} of a random number is outside [0, 2^32): {int(value.min())} .. {int(value.max())}"
            )
    if columns >= 4 * LIMIT:
        raise ValueError(f"{columns} columns of random numbers, expected fewer than 2^34")
