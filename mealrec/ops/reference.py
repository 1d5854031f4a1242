"""The operations in plain PyTorch: their meaning, to which the fused kernels are compared.

Rows R are videos' frames or positions; columns D their width. Arithmetic is float32 whatever the storage
dtype (float64 for float64).
"""

from __future__ import annotations

import torch

from mealrec.ops.counters import Counters
from mealrec.ops.philox import normal, words
from mealrec.ops.sampler import Sampler, reverse_coefficients
from mealrec.ops.schedule import Schedule, tables

# Comparisons counted at once, in elements: what stays in a CPU core's cache.
COUNT_ELEMENTS = {"cpu": 1 << 18}

__all__ = [
    "corrupt",
    "count_above",
    "diffusion_loss",
    "dropout",
    "normal",
    "q_sample",
    "reverse_step",
    "softmax_terms_",
    "words",
]


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _at(x_UD: torch.Tensor, row_R: torch.Tensor | None) -> torch.Tensor:
    return x_UD if row_R is None else x_UD[row_R]


def _masked(x_RD: torch.Tensor, mask_R: torch.Tensor | None) -> torch.Tensor:
    return x_RD if mask_R is None else torch.where(mask_R[:, None], x_RD, 0)


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    mask_R: torch.Tensor | None,
    row_R: torch.Tensor | None,
) -> torch.Tensor:
    """`x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM], [R, D] in the dtype of `x0`."""
    x0_RD = _at(x0_RD, row_R)
    table = tables(schedule, x0_RD.device)
    eps = normal(counters, x0_RD.shape[1], stream)
    x_t = table.signal[t_R + 1, None] * _wide(x0_RD) + table.noise[t_R + 1, None] * eps
    return _masked(x_t, mask_R).to(x0_RD.dtype)


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
    """`q_sample` at a step drawn for each group of rows, with the counters of the group's first row."""
    first = Counters(counters.seed, counters.step, counters.sample_id, counters.row - counters.row % group)
    t_R = (words(first, 1, step_stream)[:, 0] * schedule.steps) >> 32
    return q_sample(x0_RD, t_R, schedule, counters, stream, mask_R, row_R), t_R


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
    """One step `t -> t_prev` of the chain, [R, D]: x0hat, `x_t` and noise times `reverse_coefficients`."""
    abar = tables(schedule, x_RD.device).abar
    of_x0hat, of_x, of_noise = reverse_coefficients(abar, t_R, t_prev_R, sampler)
    x0hat = _wide(x0hat_RD)
    if null_RD is not None:
        x0hat = (1 + sampler.guidance) * x0hat - sampler.guidance * _wide(null_RD)
    out = of_x0hat * x0hat + of_x * _wide(x_RD)
    if sampler.noisy:
        out = out + of_noise * normal(counters, x_RD.shape[1], stream)
    return _masked(out, mask_R).to(x_RD.dtype)


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None,
    row_R: torch.Tensor | None,
) -> torch.Tensor:
    """Sum over the rows of `mask` of the squared error averaged over the width: a scalar."""
    error_R = (_wide(prediction_RD) - _wide(_at(target_RD, row_R))).square().mean(dim=1)
    return (error_R if mask_R is None else torch.where(mask_R, error_R, 0)).sum()


def dropout(
    x_RD: torch.Tensor, p: float, counters: Counters, stream: int, residual_RD: torch.Tensor | None
) -> torch.Tensor:
    """`residual + x * keep / (1 - p)`, [R, D]; `keep` where the random word is at least `p 2^32`."""
    keep = words(counters, x_RD.shape[1], stream) >= round(p * 2**32)
    dropped = _wide(x_RD) * (keep * (1 / (1 - p)))
    return (dropped if residual_RD is None else _wide(residual_RD) + dropped).to(x_RD.dtype)


def softmax_terms_(
    logits_KN: torch.Tensor, score_N: torch.Tensor, own_N: torch.Tensor, bias_K: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`exp(logit + bias - highest)` in the logits' place; the highest [N] and the sums [N] of the rows."""
    if bias_K is not None:
        logits_KN += bias_K[:, None]
    own_1N = own_N[None]
    column_1N = own_1N.clamp_min(0)
    kept_1N = logits_KN.gather(0, column_1N)
    logits_KN.scatter_(0, column_1N, kept_1N.masked_fill_(own_1N >= 0, float("-inf")))
    highest_N = torch.maximum(logits_KN.amax(0), score_N)
    return highest_N, logits_KN.sub_(highest_N).exp_().sum(0)


def count_above(score_KN: torch.Tensor, own_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For how many rows a score is above the column's own, and for how many it equals it, int64 [N] each.

    A sum of floats is several times as fast as one of booleans; up to 2^24 rows it is exact.
    """
    elements = COUNT_ELEMENTS.get(score_KN.device.type, 1 << 24)
    rows = max(1, elements // max(score_KN.shape[1], 1))
    holds = torch.empty_like(score_KN[:rows])
    above_N, equal_N = (torch.zeros_like(own_N, dtype=torch.int64) for _ in range(2))
    for score in score_KN.split(rows):
        above_N += torch.gt(score, own_N, out=holds[: len(score)]).sum(0).long()
        equal_N += torch.eq(score, own_N, out=holds[: len(score)]).sum(0).long()
    return above_N, equal_N
