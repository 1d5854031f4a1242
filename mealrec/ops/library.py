"""The fused operations as `torch.library` operators `mealrec::*`: schemas, shapes and gradients.

Their CPU and CUDA parts come from the library that `build.py` makes of `csrc/`. Arguments and results are
those of `csrc/binding.h`; `fused.py` calls them with this package's own types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mealrec.ops.sampler import Sampler, reverse_coefficients

COUNTERS = "Tensor seed, Tensor step, Tensor sample_id, Tensor row"
SCHEMAS = (
    "q_sample(Tensor x0, Tensor? x0_row, Tensor t, Tensor signal, Tensor noise, Tensor? mask, "
    f"{COUNTERS}, int stream) -> Tensor",
    "q_sample_drawn(Tensor x0, Tensor? x0_row, Tensor signal, Tensor noise, Tensor? mask, "
    f"{COUNTERS}, int stream, int step_stream, int group) -> (Tensor, Tensor)",
    "scale_rows(Tensor x, Tensor t, Tensor scale, Tensor? mask) -> Tensor",
    "reverse_step(Tensor x, Tensor x0hat, Tensor? null, Tensor t, Tensor t_prev, Tensor abar, "
    f"float guidance, float eta, bool ddpm, Tensor? mask, {COUNTERS}, int stream) -> Tensor",
    "diffusion_loss(Tensor prediction, Tensor target, Tensor? target_row, Tensor? mask) -> Tensor",
    "diffusion_loss_gradient(Tensor prediction, Tensor target, Tensor? target_row, Tensor? mask, "
    "Tensor grad) -> Tensor",
    f"dropout(Tensor x, Tensor? residual, float p, {COUNTERS}, int stream) -> Tensor",
    f"words({COUNTERS}, int columns, int stream) -> Tensor",
    f"normal({COUNTERS}, int columns, int stream) -> Tensor",
)
# Of the CPU's library alone.
CPU_SCHEMAS = (
    "softmax_terms_(Tensor(a!) logits, Tensor score, Tensor own, Tensor? bias) -> (Tensor, Tensor)",
    "count_above(Tensor score, Tensor own) -> (Tensor, Tensor)",
)

_library = torch.library.Library("mealrec", "DEF")
for _schema in (*SCHEMAS, *CPU_SCHEMAS):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
operators: Any = torch.ops.mealrec


# Shapes, for torch.compile: from `shape` and not from `len`, which would fix a size that may vary. Results
# are dense whatever the strides of the inputs.


def _dense(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _rows_of(x0: Tensor, x0_row: Tensor | None, *_: object) -> Tensor:
    return x0.new_empty((x0 if x0_row is None else x0_row).shape[0], x0.shape[1])


def _rows_and_steps_of(
    x0: Tensor,
    x0_row: Tensor | None,
    signal: Tensor,
    noise: Tensor,
    mask: Tensor | None,
    seed: Tensor,
    step: Tensor,
    sample_id: Tensor,
    row: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor]:
    return _rows_of(x0, x0_row), _dense(row)


def _scalar(prediction: Tensor, *_: object) -> Tensor:
    return prediction.new_empty((), dtype=torch.float32)


def _words(seed: Tensor, step: Tensor, sample_id: Tensor, row: Tensor, columns: int, stream: int) -> Tensor:
    return row.new_empty(row.shape[0], columns)


def _normals(seed: Tensor, step: Tensor, sample_id: Tensor, row: Tensor, columns: int, stream: int) -> Tensor:
    return row.new_empty(row.shape[0], columns, dtype=torch.float32)


def _like_score(logits: Tensor, score: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _dense(score), _dense(score)


def _counts(score: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    return own.new_empty(own.shape, dtype=torch.int64), own.new_empty(own.shape, dtype=torch.int64)


_shapes: dict[str, Callable[..., Any]] = {
    "q_sample": _rows_of,
    "q_sample_drawn": _rows_and_steps_of,
    "scale_rows": _dense,
    "reverse_step": _dense,
    "diffusion_loss": _scalar,
    "diffusion_loss_gradient": _dense,
    "dropout": _dense,
    "words": _words,
    "normal": _normals,
    "softmax_terms_": _like_score,
    "count_above": _counts,
}
for _name, _shape in _shapes.items():
    torch.library.register_fake(f"mealrec::{_name}", _shape, lib=_library)


# Gradients. No noise is stored: what a backward pass needs of it is drawn again.

Context = Any  # PyTorch's, with the attributes that `_save_...` puts on it
Gradients = tuple[Tensor | None, ...]


def _rows(grad: Tensor) -> Tensor:
    """Return `grad` as the kernels read it: the gradient of a sum, for example, is one number expanded."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


def _save_q_sample(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    x0, x0_row, t, signal, _, mask, *_ = inputs
    ctx.count = x0.shape[0]
    ctx.save_for_backward(t, signal, mask, x0_row)


def _q_sample_backward(ctx: Context, grad: Tensor) -> Gradients:
    *scale, x0_row = ctx.saved_tensors
    scaled = operators.scale_rows(_rows(grad), *scale)
    if x0_row is not None:  # a row of x0 gets what all its uses give, summed in float32
        total = scaled.new_zeros(ctx.count, scaled.shape[1], dtype=torch.float32)
        scaled = total.index_add_(0, x0_row, scaled.float()).to(scaled.dtype)
    return scaled, *[None] * 10


def _save_q_sample_drawn(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    x0, x0_row, *others = inputs
    _save_q_sample(ctx, (x0, x0_row, output[1], *others), output)
    ctx.mark_non_differentiable(output[1])


def _q_sample_drawn_backward(ctx: Context, grad: Tensor, _: None) -> Gradients:
    return *_q_sample_backward(ctx, grad), None


def _save_scale_rows(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1:])


def _scale_rows_backward(ctx: Context, grad: Tensor) -> Gradients:
    return operators.scale_rows(_rows(grad), *ctx.saved_tensors), None, None, None


def _save_reverse_step(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    _, _, null, t, t_prev, abar, ctx.guidance, ctx.eta, ctx.ddpm, mask, *_ = inputs
    ctx.guided = null is not None
    ctx.save_for_backward(t, t_prev, abar, mask)


def _reverse_step_backward(ctx: Context, grad: Tensor) -> Gradients:
    t, t_prev, abar, mask = ctx.saved_tensors
    sampler = Sampler("ddpm" if ctx.ddpm else "ddim", ctx.eta)
    x0hat, x, _ = reverse_coefficients(abar, t, t_prev, sampler)
    if mask is not None:
        grad = torch.where(mask[:, None], grad, 0)
    own = x0hat * (1 + ctx.guidance) if ctx.guided else x0hat
    null = (grad * (-ctx.guidance * x0hat)).to(grad.dtype) if ctx.guided else None
    return (grad * x).to(grad.dtype), (grad * own).to(grad.dtype), null, *[None] * 12


def _save_diffusion_loss(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _diffusion_loss_backward(ctx: Context, grad: Tensor) -> Gradients:
    return operators.diffusion_loss_gradient(*ctx.saved_tensors, grad), None, None, None


def _save_dropout(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
    _, residual, ctx.p, *counters, ctx.stream = inputs
    ctx.residual = residual is not None
    ctx.save_for_backward(*counters)


def _dropout_backward(ctx: Context, grad: Tensor) -> Gradients:
    dropped = operators.dropout(_rows(grad), None, ctx.p, *ctx.saved_tensors, ctx.stream)
    return dropped, grad if ctx.residual else None, *[None] * 6


for _name, _backward, _save in (
    ("q_sample", _q_sample_backward, _save_q_sample),
    ("q_sample_drawn", _q_sample_drawn_backward, _save_q_sample_drawn),
    ("scale_rows", _scale_rows_backward, _save_scale_rows),
    ("reverse_step", _reverse_step_backward, _save_reverse_step),
    ("diffusion_loss", _diffusion_loss_backward, _save_diffusion_loss),
    ("dropout", _dropout_backward, _save_dropout),
):
    torch.library.register_autograd(f"mealrec::{_name}", _backward, setup_context=_save, lib=_library)
