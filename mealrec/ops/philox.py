"""Philox4x32-10 [Salmon et al. 2011, Random123] in plain PyTorch, to which the fused kernels are compared.

Words are int64 tensors holding values below 2^32 (PyTorch has no arithmetic on uint32); the product of two
words may wrap as a signed number, which leaves its 64 bits right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from mealrec.ops.counters import Counters, check_counters

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
# Counters worked on at once on the CPU: the temporaries of a slice stay in the second-level cache.
SLICE = 1 << 14

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox4x32(
    c0: torch.Tensor, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor, k0: torch.Tensor, k1: torch.Tensor
) -> Words:
    """Ten rounds on counters and key, int64 words that broadcast together; returns four int64 words."""
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & MASK, ((p0 >> 32) ^ c3 ^ k1) & MASK
        c1, c3 = p1 & MASK, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _slices(counters: Counters, columns: int, stream: int) -> Iterator[tuple[slice, Words]]:
    """Words [rows of the slice, ceil(columns / 4)] slice by slice."""
    check_counters(counters, columns)
    seed, step, sample_id, row = counters.seed, counters.step, counters.sample_id, counters.row
    quads = torch.arange((columns + 3) // 4, device=row.device)
    key = (seed, torch.full_like(seed, stream))
    parts = [slice(None)]
    if row.device.type == "cpu" and not torch.compiler.is_compiling():  # a graph serves any number of rows
        size = max(1, SLICE // max(len(quads), 1))
        parts = [slice(start, start + size) for start in range(0, len(row), size)]
    for part in parts:
        yield part, philox4x32(quads[None, :], row[part, None], sample_id[part, None], step, *key)


def words(counters: Counters, columns: int, stream: int) -> torch.Tensor:
    """Random words int64 [R, columns], each uniform on `[0, 2^32)`."""
    row = counters.row
    out = torch.empty(row.shape[0], (columns + 3) // 4 * 4, dtype=torch.int64, device=row.device)
    lanes = out.unflatten(1, (-1, 4))
    for part, quad in _slices(counters, columns, stream):
        for lane, word in enumerate(quad):
            lanes[part, :, lane] = word
    return out[:, :columns]


def normal(counters: Counters, columns: int, stream: int) -> torch.Tensor:
    """Standard normals float32 [R, columns].

    Box-Muller in float64: `u = (x0 + .5) 2^-32`, angle `2 pi x1 2^-32`.
    """
    row = counters.row
    out = torch.empty(row.shape[0], (columns + 3) // 4 * 4, dtype=torch.float32, device=row.device)
    lanes = out.unflatten(1, (-1, 4))
    for part, (x0, x1, x2, x3) in _slices(counters, columns, stream):
        for lane, (radius_word, angle_word) in ((0, (x0, x1)), (2, (x2, x3))):
            radius = ((radius_word.double() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
            angle = angle_word.double() * (2 * math.pi * 2.0**-32)
            lanes[part, :, lane] = radius * angle.cos()
            lanes[part, :, lane + 1] = radius * angle.sin()
    return out[:, :columns]
