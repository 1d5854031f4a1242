"""The diffusion operations behind one public function each, with a `kernel=` choice.

`kernel="auto"` takes the fused kernels (CUDA or CPU, built at first use) where they can be had, else the
plain PyTorch reference, and says so once; `"cuda"`, `"cpu"` and `"reference"` name one. $MEALREC_KERNEL
stands for "auto". All implementations draw the same random numbers (`place.py`) and agree within rounding.

Rows R stand for videos' frames or for positions, columns D for their width. Tensors of rows are float32 or
bfloat16 (the reference also takes others), [R, D] with a contiguous last dimension and any row stride;
arithmetic is float32. Every function raises ValueError for fields that do not match, before any launch.
"""

from __future__ import annotations

import torch

from mealrec.ops.build import Unavailable
from mealrec.ops.choice import KERNELS, choose, ready
from mealrec.ops.place import Place, Stream, check
from mealrec.ops.schedule import Schedule, chain, infer_start, tables

__all__ = [
    "KERNELS",
    "Place",
    "Schedule",
    "Stream",
    "Unavailable",
    "bernoulli",
    "chain",
    "corrupt",
    "diffusion_loss",
    "draw_steps",
    "dropout",
    "infer_start",
    "normal",
    "q_sample",
    "ready",
    "reverse_step",
    "tables",
    "words",
]


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    *,
    mask_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Corrupts rows to their step: `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM].

    x0_RD: [R, D]; t_R: int64 [R] in `0..T-1`; mask_R: bool [R], rows that are off become zero; returns [R, D]
    in the dtype of `x0`. Differentiable in `x0`. Raises ValueError for rows that do not match and for steps
    outside the table.
    """
    _check_rows("q_sample", x0_RD)
    _check_fields("q_sample", x0_RD, place, mask_R, t_R)
    _check_steps("t", t_R, 0, schedule.steps)
    return choose(kernel, x0_RD).q_sample(x0_RD, t_R, schedule, place, stream, mask_R)


def corrupt(
    x0_RD: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    step_stream: int,
    *,
    group: int = 1,
    mask_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`q_sample` at a step drawn uniformly on `0..T-1`, in one pass -> `x_t` [R, D] and the steps int64 [R].

    group: the rows `k * group .. k * group + group - 1` of `place` share one step, drawn from `step_stream`
    where the first of them stands: the frames of a video.
    """
    _check_rows("corrupt", x0_RD)
    _check_fields("corrupt", x0_RD, place, mask_R)
    if group < 1:
        raise ValueError(f"corrupt: group is {group}, expected at least 1")
    return choose(kernel, x0_RD).corrupt(x0_RD, schedule, place, stream, step_stream, group, mask_R)


def reverse_step(
    x_RD: torch.Tensor,
    x0hat_RD: torch.Tensor,
    t_R: torch.Tensor,
    t_prev_R: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    *,
    sampler: str = "ddim",
    eta: float = 0.0,
    null_RD: torch.Tensor | None = None,
    guidance: float = 0.0,
    mask_R: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """One step of the reverse chain from `x_t` and the prediction of `x_0`; see
    `reference.reverse_coefficients` for the formulas.

    x, x0hat, null: [R, D]; t, t_prev: int64 [R], `t_prev < t`, -1 ends the chain; mask: bool [R], rows that
    are off become zero; returns [R, D] in the dtype of `x`. Differentiable in x, x0hat and null. Raises
    ValueError for shapes that do not match, steps outside the table or an unknown sampler.
    """
    _check_rows("reverse_step", x_RD, x0hat_RD, *(() if null_RD is None else (null_RD,)))
    _check_fields("reverse_step", x_RD, place, mask_R, t_R, t_prev_R)
    _check_steps("t", t_R, 0, schedule.steps)
    _check_steps("t_prev", t_prev_R, -1, schedule.steps)
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"sampler is {sampler!r}, expected ddim or ddpm")
    return choose(kernel, x_RD).reverse_step(
        x_RD, x0hat_RD, t_R, t_prev_R, schedule, sampler, eta, place, stream, null_RD, guidance, mask_R
    )


def diffusion_loss(
    prediction_RD: torch.Tensor,
    target_RD: torch.Tensor,
    mask_R: torch.Tensor | None = None,
    weight_R: torch.Tensor | None = None,
    *,
    kernel: str = "auto",
) -> torch.Tensor:
    """Masked, optionally step-weighted squared error: the sum over the rows where `mask` of `weight` times
    the error's square averaged over D, a float32 scalar. The kernels make the gradient in the same pass.

    prediction, target: [R, D]; mask: bool [R]; weight: float32 [R]. Differentiable in the prediction; the
    target is data. The order of the sum is fixed.
    """
    _check_rows("diffusion_loss", prediction_RD, target_RD)
    _check_fields("diffusion_loss", prediction_RD, None, mask_R)
    if weight_R is not None and (
        weight_R.dtype != torch.float32 or weight_R.shape != prediction_RD.shape[:1]
    ):
        found = f"{weight_R.dtype} {tuple(weight_R.shape)}"
        raise ValueError(f"diffusion_loss: weight is {found}, expected float32 [{len(prediction_RD)}]")
    return choose(kernel, prediction_RD).diffusion_loss(prediction_RD, target_RD.detach(), mask_R, weight_R)


def dropout(
    x_RD: torch.Tensor,
    p: float,
    place: Place,
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
    _check_rows("dropout", x_RD, *(() if residual_RD is None else (residual_RD,)))
    _check_fields("dropout", x_RD, place, None)
    return choose(kernel, x_RD).dropout(x_RD, p, place, stream, residual_RD)


def draw_steps(place: Place, steps: int, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """A diffusion step for each row, int64 [R], uniform on `0..steps-1`: `mulhi(word, steps)`."""
    return (words(place, 1, stream, kernel=kernel)[:, 0] * steps) >> 32


def bernoulli(place: Place, p: float, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """A coin for each row, bool [R], true with probability `p`."""
    return words(place, 1, stream, kernel=kernel)[:, 0] < round(p * 2**32)


def words(place: Place, columns: int, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """Random words int64 [R, columns], uniform on `[0, 2^32)`."""
    check(place, columns)
    return choose(kernel, place.row).words(place, columns, stream)


def normal(place: Place, columns: int, stream: int, *, kernel: str = "auto") -> torch.Tensor:
    """Standard normals float32 [R, columns]."""
    check(place, columns)
    return choose(kernel, place.row).normal(place, columns, stream)


def _check_rows(name: str, x: torch.Tensor, *others: torch.Tensor) -> None:
    for other in (x, *others):
        if other.ndim != 2 or other.shape != x.shape:
            shapes = " and ".join(str(tuple(each.shape)) for each in (x, *others))
            raise ValueError(f"{name}: shapes {shapes}, expected equal [rows, width]")
        if other.dtype != x.dtype or other.device != x.device:
            found = f"{other.dtype} on {other.device} beside {x.dtype} on {x.device}"
            raise ValueError(f"{name}: {found}, expected the same")
        if other.shape[1] > 1 and other.stride(1) != 1:
            raise ValueError(f"{name}: strides {other.stride()}, expected a contiguous last dimension")


def _check_fields(
    name: str, x: torch.Tensor, place: Place | None, mask_R: torch.Tensor | None, *steps: torch.Tensor
) -> None:
    fields = [("step", t) for t in steps]
    if place is not None:
        fields += [("sample_id", place.sample_id), ("row", place.row)]
        check(place, x.shape[1])
    for field, tensor in fields:
        _check_field(name, field, tensor, torch.int64, x)
    if mask_R is not None:
        _check_field(name, "mask", mask_R, torch.bool, x)


def _check_field(name: str, field: str, tensor: torch.Tensor, dtype: torch.dtype, x: torch.Tensor) -> None:
    if tensor.dtype != dtype or tensor.shape != x.shape[:1] or tensor.device != x.device:
        found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name}: {field} is {found}, expected {dtype} [{len(x)}] on {x.device}")


def _check_steps(name: str, t_R: torch.Tensor, low: int, steps: int) -> None:
    """Steps inside the schedule's table. A look at a GPU's tensor makes it wait, which a captured graph
    cannot and a traced one need not."""
    if torch.compiler.is_compiling() or t_R.numel() == 0:
        return
    if t_R.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    lowest, highest = (int(v) for v in torch.aminmax(t_R))
    if lowest < low or highest >= steps:
        raise ValueError(
            f"{name} of a step is outside the schedule: {lowest} .. {highest}, expected {low} .. {steps - 1}"
        )
