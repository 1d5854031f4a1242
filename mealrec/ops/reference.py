"""The diffusion operations in plain PyTorch: what they mean, and the truth that any other implementation is
held against.

Rows R are videos' frames or positions; columns D their width. Arithmetic is float32 whatever the storage
dtype (float64 for float64).
"""

from __future__ import annotations

import torch

from mealrec.ops import philox
from mealrec.ops.place import Place
from mealrec.ops.schedule import Schedule, tables


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _masked(x_RD: torch.Tensor, mask_R: torch.Tensor | None) -> torch.Tensor:
    return x_RD if mask_R is None else torch.where(mask_R[:, None], x_RD, 0)


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    mask_R: torch.Tensor | None,
) -> torch.Tensor:
    """`x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM], [R, D] in the dtype of `x0`."""
    table = tables(schedule, x0_RD.device)
    eps = philox.normal(place, x0_RD.shape[1], stream)
    x_t = table.signal[t_R + 1, None] * _wide(x0_RD) + table.noise[t_R + 1, None] * eps
    return _masked(x_t, mask_R).to(x0_RD.dtype)


def corrupt(
    x0_RD: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    step_stream: int,
    group: int,
    mask_R: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`q_sample` at a step drawn for each group of rows from `step_stream`, where the group's first row
    stands.
    """
    first = Place(place.seed, place.step, place.sample_id, place.row - place.row % group)
    t_R = (philox.words(first, 1, step_stream)[:, 0] * schedule.steps) >> 32
    return q_sample(x0_RD, t_R, schedule, place, stream, mask_R), t_R


def reverse_coefficients(
    abar: torch.Tensor, t_R: torch.Tensor, t_prev_R: torch.Tensor, sampler: str, eta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights [R, 1] of `x0hat`, `x_t` and the noise in a reverse step; `abar` [T+1] as in `Tables`.

    With fewer steps than T, `a = abar_t / abar_prev`, `b = 1 - a`, for both samplers.
    ddpm: mean `[b sqrt(abar_prev) / (1 - abar_t)] x0hat + [(1 - abar_prev) sqrt(a) / (1 - abar_t)] x_t`,
    variance `b (1 - abar_prev) / (1 - abar_t)` [DDPM]; ddim: [DDIM] eq. 12 with `eta`. Where `t_prev` is -1:
    the prediction alone.
    """
    now, prev = abar[t_R + 1, None], abar[t_prev_R + 1, None]
    alpha = now / prev
    beta, rest = 1 - alpha, 1 - now
    sigma = (beta * (1 - prev) / rest).sqrt()
    if sampler == "ddpm":
        x0hat, x = beta * prev.sqrt() / rest, (1 - prev) * alpha.sqrt() / rest
    else:
        sigma = eta * sigma
        x = ((1 - prev - sigma**2).clamp_min(0) / rest).sqrt()
        x0hat = prev.sqrt() - x * now.sqrt()
    last = t_prev_R[:, None] < 0
    return torch.where(last, 1, x0hat), torch.where(last, 0, x), torch.where(last, 0, sigma)


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
    mask_R: torch.Tensor | None,
) -> torch.Tensor:
    """One step `t -> t_prev` of the reverse chain, [R, D]: `reverse_coefficients` of the prediction, `x_t`
    and noise.

    With `guidance` w and the prediction `null_RD` under the null condition, `x0hat := (1 + w) x0hat - w null`
    [DreamRec].
    """
    abar = tables(schedule, x_RD.device).abar
    of_x0hat, of_x, of_noise = reverse_coefficients(abar, t_R, t_prev_R, sampler, eta)
    x0hat = _wide(x0hat_RD)
    if null_RD is not None:
        x0hat = (1 + guidance) * x0hat - guidance * _wide(null_RD)
    out = of_x0hat * x0hat + of_x * _wide(x_RD)
    if sampler == "ddpm" or eta > 0:
        out = out + of_noise * philox.normal(place, x_RD.shape[1], stream)
    return _masked(out, mask_R).to(x_RD.dtype)


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None,
    weight_R: torch.Tensor | None,
) -> torch.Tensor:
    """Sum over the rows of `mask` of `weight` times the squared error averaged over the width: a scalar."""
    error_R = (_wide(prediction_RD) - _wide(target_RD)).square().mean(dim=1)
    if weight_R is not None:
        error_R = weight_R * error_R
    return (error_R if mask_R is None else torch.where(mask_R, error_R, 0)).sum()


def dropout(
    x_RD: torch.Tensor, p: float, place: Place, stream: int, residual_RD: torch.Tensor | None
) -> torch.Tensor:
    """`residual + x * keep / (1 - p)`, [R, D]; `keep` where the random word is at least `p 2^32`."""
    keep = philox.words(place, x_RD.shape[1], stream) >= round(p * 2**32)
    dropped = _wide(x_RD) * (keep * (1 / (1 - p)))
    return (dropped if residual_RD is None else _wide(residual_RD) + dropped).to(x_RD.dtype)


def words(place: Place, columns: int, stream: int) -> torch.Tensor:
    """Random words int64 [R, columns], each uniform on `[0, 2^32)`."""
    return philox.words(place, columns, stream)


def normal(place: Place, columns: int, stream: int) -> torch.Tensor:
    """Standard normals float32 [R, columns]."""
    return philox.normal(place, columns, stream)
