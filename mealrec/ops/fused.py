"""The diffusion operations through the fused kernels: the signatures of `reference.py`."""

from __future__ import annotations

import torch

from mealrec.ops.library import fused
from mealrec.ops.place import Place
from mealrec.ops.schedule import Schedule, tables


def _dense(*fields: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Per-row fields as the kernels read them; they are small beside the rows."""
    return tuple(None if field is None else field.contiguous() for field in fields)


def _at(place: Place) -> tuple[torch.Tensor, ...]:
    return _dense(place.seed, place.step, place.sample_id, place.row)


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    mask_R: torch.Tensor | None,
) -> torch.Tensor:
    table, (t_R, mask_R) = tables(schedule, x0_RD.device), _dense(t_R, mask_R)
    return fused.q_sample(x0_RD, t_R, table.signal, table.noise, mask_R, *_at(place), stream)


def corrupt(
    x0_RD: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    step_stream: int,
    group: int,
    mask_R: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    table, (mask_R,) = tables(schedule, x0_RD.device), _dense(mask_R)
    return fused.q_sample_drawn(
        x0_RD, table.signal, table.noise, mask_R, *_at(place), stream, step_stream, group
    )


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
    abar, ddpm = tables(schedule, x_RD.device).abar, sampler == "ddpm"
    t_R, t_prev_R, mask_R = _dense(t_R, t_prev_R, mask_R)
    return fused.reverse_step(
        x_RD, x0hat_RD, null_RD, t_R, t_prev_R, abar, guidance, eta, ddpm, mask_R, *_at(place), stream
    )


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None,
    weight_R: torch.Tensor | None,
) -> torch.Tensor:
    return fused.diffusion_loss(prediction_RD, target_RD, *_dense(mask_R, weight_R))[0]


def dropout(
    x_RD: torch.Tensor, p: float, place: Place, stream: int, residual_RD: torch.Tensor | None
) -> torch.Tensor:
    return fused.dropout(x_RD, residual_RD, p, *_at(place), stream)


def words(place: Place, columns: int, stream: int) -> torch.Tensor:
    return fused.words(*_at(place), columns, stream)


def normal(place: Place, columns: int, stream: int) -> torch.Tensor:
    return fused.normal(*_at(place), columns, stream)
