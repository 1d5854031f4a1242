"""The batch: what the model reads.

Legend: B rows, L positions, N real positions, W positions with a target, M frames, V raw feature width,
I videos, U distinct videos, S seen videos.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class _Required(TypedDict):
    sample_id: Tensor
    item: Tensor


class Batch(_Required, total=False):
    """Tensors by name, int64 unless said; all but `sample_id` and `item` are needed for some tasks only.

    sample_id [B]: the user's row, the first coordinate of every random number.
    item [B, L]: histories, right-padded with 0, videos 1..I.
    offset [B]: position of column 0 in the user's sequence (default 0).
    target: [B, L] in training, the next video, 0 where there is none; [B] in ranking.
    features float [U, M, V], frames [U]: raw frames of the distinct videos, and their number.
    feature_row [B, L]: row of each position's video in `features`.
    real_index [N], target_index [W]: indices of the real positions and of those with a target, row by row in
        [B, L]. Where they are missing they are found from `item` and `target`, for which a GPU's host waits.
        Some may be of cells with no video or target, which take no part: so N and W can have fixed values.
        All of `target_index` are in `real_index`.
    weight float32 [B]: 1 in real rows, 0 in fillers; it travels along, the model does not read it.
    history [S], history_row [S]: every earlier video of row `history_row`, left out of a ranking.
    seed, global_step: scalars (default 0).
    """

    offset: Tensor
    target: Tensor
    features: Tensor
    frames: Tensor
    feature_row: Tensor
    real_index: Tensor
    target_index: Tensor
    weight: Tensor
    history: Tensor
    history_row: Tensor
    seed: Tensor
    global_step: Tensor


def real_index(batch: Batch) -> Tensor:
    """Indices of the real positions, row by row, int64 [N]."""
    return batch["real_index"] if "real_index" in batch else _nonzero(batch["item"])


def target_index(batch: Batch) -> Tensor:
    """Indices of the positions with a target, row by row, int64 [W]."""
    return batch["target_index"] if "target_index" in batch else _nonzero(batch["target"])


def _nonzero(values_BL: Tensor) -> Tensor:
    return values_BL.flatten().nonzero()[:, 0]
