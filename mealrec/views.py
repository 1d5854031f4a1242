"""What a study does to the frames of a batch: another order, or noise [ours].

Legend: U distinct videos, M frames, V raw feature width; B rows, L positions.
"""

from __future__ import annotations

import torch

from mealrec.batch import Batch
from mealrec.noise import Noise
from mealrec.ops import Counters, RandomStream, normal
from mealrec.video import frame_mask


def in_drawn_order(batch: Batch, noise: Noise) -> torch.Tensor:
    """Features [U, M, V] with each video's real frames in an order that its id and the seed alone decide."""
    features_UMV, frames_U = batch["features"], batch["frames"]
    U, M, V = features_UMV.shape
    video_U = torch.zeros_like(frames_U).scatter_(0, batch["feature_row"].flatten(), batch["item"].flatten())
    frame_R = torch.arange(M, device=video_U.device).repeat(U)
    counters = Counters(noise.seed, torch.zeros_like(noise.step), video_U.repeat_interleave(M), frame_R)
    draw_UM = normal(counters, 1, RandomStream.FRAME_ORDER).view(U, M)
    order_UM = draw_UM.masked_fill(~frame_mask(frames_U, M), float("inf")).argsort(stable=True, dim=1)
    return features_UMV.gather(1, order_UM[..., None].expand(U, M, V))


def with_feature_noise(batch: Batch, sigma: float, noise: Noise) -> Batch:
    """The batch with `sigma * eps` on its features, eps drawn anew for each position of each user.

    So no video keeps its noise, by which a model could know it again. Each position has frames of its own.
    """
    row_R, item_BL = batch["feature_row"].flatten(), batch["item"]
    features_RMV, frames_R = batch["features"][row_R], batch["frames"][row_R]
    R, M, V = features_RMV.shape
    eps_RMV = normal(noise.counters(M), V, RandomStream.FEATURE_NOISE).view(R, M, V)
    return {
        **batch,
        "features": features_RMV + sigma * eps_RMV,
        "frames": frames_R,
        "feature_row": torch.arange(R, device=row_R.device).view(item_BL.shape),
    }
