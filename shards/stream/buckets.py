"""Sizes of a batch that depend on its data, rounded up to few: for compiled code, which is made for each size.

They are the positions L of the longest row, the N positions in `real_index`, the W in `target_index` and the
U distinct videos. What is added takes no part: cells without a video, and the padding's row of the features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from shards.stream.batch import Batch

SIZES_PER_DOUBLING = 4
"""A size grows by less than a quarter. More sizes pad less, and make more combinations of the four."""
LEAST = 2
"""Compilers take a size of 0 or 1 for a constant."""


def rounded_up(size: int, most: int) -> int:
    """The smallest bucket that holds `size`: 2, 3, .. 8, 10, 12, 14, 16, 20, 24, ..; at most `most`."""
    unit = max(1, (1 << size.bit_length() - 1) // SIZES_PER_DOUBLING) if size else 1
    return min(max(LEAST, -(-size // unit) * unit), most)


def round_up_positions(batch: Batch, max_length: int) -> Batch:
    """A training batch with L, N and W rounded up, L to at most `max_length`.

    `real_index` gets the first cells that hold no video, `target_index` the first of `real_index` that have
    no target. Both stay in order, without a cell twice.
    """
    length = batch["item"].shape[1]
    added = rounded_up(length, max_length) - length
    item, target = F.pad(batch["item"], (0, added)), F.pad(batch["target"], (0, added))
    real_index = _with_first(item.flatten() > 0, torch.ones(item.numel(), dtype=torch.bool))
    may_hold_target = torch.zeros(item.numel(), dtype=torch.bool)
    may_hold_target[real_index] = True
    return {
        **batch,
        "item": item,
        "target": target,
        "real_index": real_index,
        "target_index": _with_first(target.flatten() > 0, may_hold_target),
    }


def _with_first(wanted_C: torch.Tensor, allowed_C: torch.Tensor) -> torch.Tensor:
    """Indices of the wanted cells and of the first others that are allowed, in order, a bucket of them."""
    wanted, allowed = int(wanted_C.sum()), int(allowed_C.sum())
    others = torch.nonzero(allowed_C & ~wanted_C)[: rounded_up(wanted, allowed) - wanted, 0]
    chosen_C = wanted_C.clone()
    chosen_C[others] = True
    return torch.nonzero(chosen_C)[:, 0]
