"""The model's fused operations behind one public function each, with a `kernel=` choice.

`kernel="auto"` takes the fused kernels (CUDA or CPU, built at first use) where they are available, else the
plain PyTorch reference, and logs once which it takes; `"cuda"`, `"cpu"` and `"reference"` name one.
$MEALREC_KERNEL, where set, replaces "auto". All implementations draw the same random numbers (`counters.py`)
and agree within rounding.

Rows R are videos' frames or positions, columns D their width. Tensors of rows are float32 or
bfloat16 (the reference also takes others), [R, D] with a contiguous last dimension and any row stride;
arithmetic is float32. Every function raises ValueError for tensors that do not match, before any launch.
"""

from __future__ import annotations

import torch

from mealrec.ops.build import Unavailable
from mealrec.ops.checks import (
    check_index,
    check_logits,
    check_mask,
    check_row_counters,
    check_rows,
    check_scores,
    check_steps,
)
from mealrec.ops.choice import KERNELS, choose, ready
from mealrec.ops.counters import Counters, RandomStream, check_counters
from mealrec.ops.sampler import DDIM, Sampler, chain
from mealrec.ops.schedule import Schedule, infer_start, tables

__all__ = [
    "KERNELS",
    "Counters",
    "RandomStream",
    "Sampler",
    "Schedule",
    "Unavailable",
    "bernoulli",
    "chain",
    "corrupt",
    "count_above",
    "diffusion_loss",
    "dropout",
    "infer_start",
    "normal",
    "q_sample",
    "ready",
    "reverse_step",
    "softmax_terms_",
    "tables",
    "words",
]


def q_sample(
    x0_RD: torch.Tensor,
    t: torch.Tensor | int,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    *,
    mask_R: torch.Tensor | None = None,
    row_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Corrupt rows to their step: `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM].

    x0_RD: [R, D]; t: in `0..T-1`, int64 [R] or one for all rows; mask_R: bool [R], rows that are off become
    zero; row_R: int64 [R], row r is made from `x0[row_R[r]]`, without a copy of those rows; returns [R, D] in
    the dtype of `x0`. Differentiable in `x0`.

    Raises:
        ValueError: rows that do not match, steps outside the table.
    """
    like = x0_RD if row_R is None else row_R
    check_rows("q_sample", x0_RD)
    check_index("q_sample", row_R, x0_RD)
    check_row_counters("q_sample", counters, like, x0_RD.shape[1])
    check_mask("q_sample", mask_R, like)
    t_R = check_steps("q_sample", "t", t, 0, schedule.steps, like)
    return choose(kernel, x0_RD).q_sample(x0_RD, t_R, schedule, counters, stream, mask_R, row_R)


def corrupt(
    x0_RD: torch.Tensor,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    step_stream: int,
    *,
    group: int = 1,
    mask_R: torch.Tensor | None = None,
    row_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`q_sample` at a step drawn uniformly on `0..T-1`, in one pass -> `x_t` [R, D] and the steps int64 [R].

    group: the rows `k * group .. k * group + group - 1` of `counters` share one step, drawn from
    `step_stream` with the counters of the first of them: the frames of a video.
    """
    like = x0_RD if row_R is None else row_R
    check_rows("corrupt", x0_RD)
    check_index("corrupt", row_R, x0_RD)
    check_row_counters("corrupt", counters, like, x0_RD.shape[1])
    check_mask("corrupt", mask_R, like)
    if group < 1:
        raise ValueError(f"corrupt: group is {group}, expected at least 1")
    return choose(kernel, x0_RD).corrupt(x0_RD, schedule, counters, stream, step_stream, group, mask_R, row_R)


def reverse_step(
    x_RD: torch.Tensor,
    x0hat_RD: torch.Tensor,
    t: torch.Tensor | int,
    t_prev: torch.Tensor | int,
    schedule: Schedule,
    counters: Counters,
    stream: int,
    *,
    sampler: Sampler = DDIM,
    null_RD: torch.Tensor | None = None,
    mask_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Go one step back in the chain, from `x_t` and the prediction of `x_0`.

    `sampler.reverse_coefficients` has the formulas. x, x0hat, null: [R, D]; t, t_prev: int64 [R]
    or one for all rows, `t_prev < t`, -1 ends the chain; mask: bool [R], rows that are off become zero;
    returns [R, D] in the dtype of `x`. Differentiable in x, x0hat and null.

    Raises:
        ValueError: shapes that do not match, steps outside the table.
    """
    check_rows("reverse_step", x_RD, x0hat_RD, null_RD)
    check_row_counters("reverse_step", counters, x_RD, x_RD.shape[1])
    check_mask("reverse_step", mask_R, x_RD)
    t_R = check_steps("reverse_step", "t", t, 0, schedule.steps, x_RD)
    t_prev_R = check_steps("reverse_step", "t_prev", t_prev, -1, schedule.steps, x_RD)
    return choose(kernel, x_RD).reverse_step(
        x_RD, x0hat_RD, t_R, t_prev_R, schedule, counters, stream, sampler, null_RD, mask_R
    )


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None = None,
    *,
    row_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Masked squared error: the sum over the rows of `mask` of its average over D, a float32 scalar.

    prediction, target: [R, D]; mask: bool [R]; row_R: int64 [R], the target of row r is `target[row_R[r]]`.
    Differentiable in the prediction; the target is data. The order of the sum is fixed.
    """
    check_rows("diffusion_loss", prediction_RD, target_RD, like=row_R is None)
    check_index("diffusion_loss", row_R, target_RD, len(prediction_RD))
    check_mask("diffusion_loss", mask_R, prediction_RD)
    return choose(kernel, prediction_RD).diffusion_loss(prediction_RD, target_RD.detach(), mask_R, row_R)


def dropout(
    x_RD: torch.Tensor,
    p: float,
    counters: Counters,
    stream: int,
    *,
    residual_RD: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Counter-based dropout, with an optional residual added: `residual + x * keep / (1 - p)`, [R, D].

    `0 <= p < 1`. Differentiable in `x` and the residual.
    """
    if p == 0:
        return x_RD if residual_RD is None else residual_RD + x_RD
    if not 0 < p < 1:
        raise ValueError(f"dropout: p is {p}, expected 0 <= p < 1")
    check_rows("dropout", x_RD, residual_RD)
    check_row_counters("dropout", counters, x_RD, x_RD.shape[1])
    return choose(kernel, x_RD).dropout(x_RD, p, counters, stream, residual_RD)


def softmax_terms_(
    logits_KN: torch.Tensor,
    score_N: torch.Tensor,
    own_N: torch.Tensor,
    bias_K: torch.Tensor | None = None,
    *,
    kernel: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms of N softmaxes, a column each: the logits become `exp(logit + bias - highest)`, in place.

    logits: float32 [K, N], contiguous; score: float32 [N], one more logit of each column, which is only
    compared; own: int64 [N], the row that is left out of a column (its term is 0), negative where none is;
    bias: float32 [K]. Returns float32 [N] each: the highest of a column's logits and score, and the sum of
    its terms. On the CPU terms are within 2e-7 relative of the exponential of the float32 difference, and the
    sums do not depend on the number of threads; a GPU has no kernel for it and runs PyTorch's operators.
    Not differentiable.

    Raises:
        ValueError: tensors that do not match, an own row beyond the last.
    """
    check_logits("softmax_terms_", logits_KN, score_N, own_N, bias_K)
    return choose(kernel, logits_KN).softmax_terms_(logits_KN, score_N, own_N, bias_K)


def count_above(
    score_KN: torch.Tensor, own_N: torch.Tensor, *, kernel: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """For how many rows a score is above the column's own, and for how many it equals it, int64 [N] each.

    score: float32 [K, N], contiguous, K up to 2^24; own: float32 [N]. Nothing is above or equal to a NaN. A
    GPU has no kernel for it and runs PyTorch's operators.

    Raises:
        ValueError: tensors that do not match.
    """
    check_scores("count_above", score_KN, own_N)
    return choose(kernel, score_KN).count_above(score_KN, own_N)


def bernoulli(counters: Counters, p: float, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """A coin for each row, bool [R], true with probability `p`."""
    return words(counters, 1, stream, kernel=kernel)[:, 0] < round(p * 2**32)


def words(counters: Counters, columns: int, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """Random words int64 [R, columns], uniform on `[0, 2^32)`."""
    check_counters(counters, columns)
    return choose(kernel, counters.row).words(counters, columns, stream)


def normal(counters: Counters, columns: int, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """Standard normals float32 [R, columns]."""
    check_counters(counters, columns)
    return choose(kernel, counters.row).normal(counters, columns, stream)
