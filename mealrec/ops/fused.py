"""The operations through the fused kernels, with this package's own types."""

from __future__ import annotations

import torch

from mealrec.ops import reference
from mealrec.ops.counters import Counters
from mealrec.ops.library import operators
from mealrec.ops.sampler import Sampler
from mealrec.ops.schedule import Schedule, tables


# Per-row fields go to the kernels dense; they are small beside the rows.
def _dense(field_R: torch.Tensor | None) -> torch.Tensor | None:
    return None if field_R is None else field_R.contiguous()


def _fields(counters: Counters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        counters.seed.contiguous(),
        counters.step.contiguous(),
        counters.sample_id.contiguous(),
        counters.row.contiguous(),
    )


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    mask_R: torch.Tensor | None,
    row_R: torch.Tensor | None,
) -> torch.Tensor:
    """See `reference.q_sample`."""
    table = tables(schedule, x0_RD.device)
    x_RD: torch.Tensor = operators.q_sample(
        x0_RD,
        _dense(row_R),
        t_R.contiguous(),
        table.signal,
        table.noise,
        _dense(mask_R),
        *_fields(counters),
        stream,
    )
    return x_RD


def corrupt(
    x0_RD: torch.Tensor,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    step_stream: int,
    group: int,
    mask_R: torch.Tensor | None,
    row_R: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.corrupt`."""
    table = tables(schedule, x0_RD.device)
    x_RD, t_R = operators.q_sample_drawn(
        x0_RD,
        _dense(row_R),
        table.signal,
        table.noise,
        _dense(mask_R),
        *_fields(counters),
        stream,
        step_stream,
        group,
    )
    return x_RD, t_R


def reverse_step(
    x_RD: torch.Tensor,
    x0hat_RD: torch.Tensor,
    t_R: torch.Tensor,
    t_prev_R: torch.Tensor,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    sampler: Sampler,
    null_RD: torch.Tensor | None,
    mask_R: torch.Tensor | None,
) -> torch.Tensor:
    """See `reference.reverse_step`."""
    out_RD: torch.Tensor = operators.reverse_step(
        x_RD,
        x0hat_RD,
        null_RD,
        t_R.contiguous(),
        t_prev_R.contiguous(),
        tables(schedule, x_RD.device).abar,
        sampler.guidance,
        sampler.eta,
        sampler.ddpm,
        _dense(mask_R),
        *_fields(counters),
        stream,
    )
    return out_RD


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None,
    row_R: torch.Tensor | None,
) -> torch.Tensor:
    """See `reference.diffusion_loss`."""
    loss: torch.Tensor = operators.diffusion_loss(prediction_RD, target_RD, _dense(row_R), _dense(mask_R))
    return loss


def dropout(
    x_RD: torch.Tensor, p: float, counters: Counters, stream: int, residual_RD: torch.Tensor | None
) -> torch.Tensor:
    """See `reference.dropout`."""
    out_RD: torch.Tensor = operators.dropout(x_RD, residual_RD, p, *_fields(counters), stream)
    return out_RD


def softmax_terms_(
    logits_KN: torch.Tensor, score_N: torch.Tensor, own_N: torch.Tensor, bias_K: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.softmax_terms_`; there is no CUDA kernel for it, so on a GPU it is the reference."""
    if logits_KN.is_cuda:
        return reference.softmax_terms_(logits_KN, score_N, own_N, bias_K)
    highest_N, rest_N = operators.softmax_terms_(
        logits_KN, score_N.contiguous(), own_N.contiguous(), _dense(bias_K)
    )
    return highest_N, rest_N


def count_above(score_KN: torch.Tensor, own_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.count_above`; there is no CUDA kernel for it, so on a GPU it is the reference."""
    if score_KN.is_cuda:
        return reference.count_above(score_KN, own_N)
    above_N, equal_N = operators.count_above(score_KN, own_N.contiguous())
    return above_N, equal_N


def words(counters: Counters, columns: int, stream: int) -> torch.Tensor:
    """See `philox.words`."""
    drawn: torch.Tensor = operators.words(*_fields(counters), columns, stream)
    return drawn


def normal(counters: Counters, columns: int, stream: int) -> torch.Tensor:
    """See `philox.normal`."""
    drawn: torch.Tensor = operators.normal(*_fields(counters), columns, stream)
    return drawn
