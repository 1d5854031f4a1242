"""The diffusion operations in plain PyTorch: what they mean, and the truth that any other implementation is
held against.

Rows R are videos' frames or positions; columns D their width. Arithmetic is float32 whatever the storage
dtype.
"""

from __future__ import annotations

import torch

from mealrec.ops import philox
from mealrec.ops.place import Place
from mealrec.ops.schedule import Schedule, tables


def q_sample(
    x0_RD: torch.Tensor, t_R: torch.Tensor, schedule: Schedule, place: Place, stream: int
) -> torch.Tensor:
    """`x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM], [R, D] in the dtype of `x0`."""
    table = tables(schedule, x0_RD.device)
    eps = philox.normal(place, x0_RD.shape[1], stream)
    x_t = table.signal[t_R + 1, None] * x0_RD.float() + table.noise[t_R + 1, None] * eps
    return x_t.to(x0_RD.dtype)


def reverse_step(
    x_RD: torch.Tensor,
    x0hat_RD: torch.Tensor,
    t_R: torch.Tensor,
    t_prev_R: torch.Tensor,
    schedule: Schedule,
    sampler: str,
    eta: float,
    place: Place,
    stream: int,
    null_RD: torch.Tensor | None,
    guidance: float,
) -> torch.Tensor:
    """One step `t -> t_prev` of the reverse chain, [R, D]; where `t_prev` is -1 it returns the prediction
    without noise.

    With fewer steps than T, `a = abar_t / abar_prev`, `b = 1 - a`, for both samplers.
    ddpm: mean `[b sqrt(abar_prev) / (1 - abar_t)] x0hat + [(1 - abar_prev) sqrt(a) / (1 - abar_t)] x_t`,
    variance `b (1 - abar_prev) / (1 - abar_t)` [DDPM]; ddim: [DDIM] eq. 12 with `eta`. With `guidance` w and
    the prediction `null_RD` under the null condition, `x0hat := (1 + w) x0hat - w null` [DreamRec].
    """
    table = tables(schedule, x_RD.device)
    x, x0 = x_RD.float(), x0hat_RD.float()
    if null_RD is not None:
        x0 = (1 + guidance) * x0 - guidance * null_RD.float()
    abar, prev = table.abar[t_R + 1, None], table.abar[t_prev_R + 1, None]
    alpha = abar / prev
    beta = 1 - alpha
    variance = beta * (1 - prev) / (1 - abar)
    if sampler == "ddpm":
        mean = (beta * prev.sqrt() * x0 + (1 - prev) * alpha.sqrt() * x) / (1 - abar)
        sigma = variance.sqrt()
    else:
        sigma = eta * variance.sqrt()
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        mean = prev.sqrt() * x0 + (1 - prev - sigma**2).clamp_min(0).sqrt() * eps
    if sampler == "ddpm" or eta > 0:
        mean = mean + sigma * philox.normal(place, x_RD.shape[1], stream)
    return torch.where(t_prev_R[:, None] < 0, x0, mean).to(x_RD.dtype)


def diffusion_loss(
    prediction_RD: torch.Tensor, target_RD: torch.Tensor, mask_R: torch.Tensor
) -> torch.Tensor:
    """Sum over the rows of `mask` of the squared error averaged over the width: a float32 scalar."""
    error = (prediction_RD.float() - target_RD.float()).square().mean(dim=1)
    return torch.where(mask_R, error, 0).sum()


def dropout(
    x_RD: torch.Tensor, p: float, place: Place, stream: int, residual_RD: torch.Tensor | None
) -> torch.Tensor:
    """`residual + x * keep / (1 - p)`, [R, D]; `keep` where the random word is at least `p 2^32`."""
    keep = philox.words(place, x_RD.shape[1], stream) >= round(p * 2**32)
    dropped = x_RD * keep * (1 / (1 - p))
    return dropped if residual_RD is None else residual_RD + dropped
