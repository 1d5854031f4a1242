"""The fused operations as `torch.library` operators `mealrec::*`: schemas, shapes for the compiler (fake),
and gradients. Their CPU and CUDA parts come from the library that `build.py` makes of `csrc/`.

Arguments and results are those of `csrc/binding.h`; `fused.py` calls them with this package's own types.
"""

from __future__ import annotations

import torch

PLACE = "Tensor seed, Tensor step, Tensor sample_id, Tensor row"
SCHEMAS = (
    "q_sample(Tensor x0, Tensor t, Tensor signal, Tensor noise, Tensor? mask, "
    f"{PLACE}, int stream) -> Tensor",
    "q_sample_drawn(Tensor x0, Tensor signal, Tensor noise, Tensor? mask, "
    f"{PLACE}, int stream, int step_stream, int group) -> (Tensor, Tensor)",
    "scale_rows(Tensor x, Tensor t, Tensor scale, Tensor? mask) -> Tensor",
    "reverse_step(Tensor x, Tensor x0hat, Tensor? null, Tensor t, Tensor t_prev, Tensor abar, "
    f"float guidance, float eta, bool ddpm, Tensor? mask, {PLACE}, int stream) -> Tensor",
    "diffusion_loss(Tensor prediction, Tensor target, Tensor? mask, Tensor? weight) -> (Tensor, Tensor)",
    f"dropout(Tensor x, Tensor? residual, float p, {PLACE}, int stream) -> Tensor",
    f"words({PLACE}, int columns, int stream) -> Tensor",
    f"normal({PLACE}, int columns, int stream) -> Tensor",
)

_library = torch.library.Library("mealrec", "DEF")
for _schema in SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
fused = torch.ops.mealrec


# Shapes. Results are dense whatever the strides of the inputs.


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("mealrec::q_sample", lib=_library)
def _(x0, t, signal, noise, mask, seed, step, sample_id, row, stream):
    return _dense(x0)


@torch.library.register_fake("mealrec::q_sample_drawn", lib=_library)
def _(x0, signal, noise, mask, seed, step, sample_id, row, stream, step_stream, group):
    return _dense(x0), _dense(row)


@torch.library.register_fake("mealrec::scale_rows", lib=_library)
def _(x, t, scale, mask):
    return _dense(x)


@torch.library.register_fake("mealrec::reverse_step", lib=_library)
def _(x, x0hat, null, t, t_prev, abar, guidance, eta, ddpm, mask, seed, step, sample_id, row, stream):
    return _dense(x)


@torch.library.register_fake("mealrec::diffusion_loss", lib=_library)
def _(prediction, target, mask, weight):
    return prediction.new_empty((), dtype=torch.float32), _dense(prediction)


@torch.library.register_fake("mealrec::dropout", lib=_library)
def _(x, residual, p, seed, step, sample_id, row, stream):
    return _dense(x)


@torch.library.register_fake("mealrec::words", lib=_library)
def _(seed, step, sample_id, row, columns, stream):
    return row.new_empty(len(row), columns)


@torch.library.register_fake("mealrec::normal", lib=_library)
def _(seed, step, sample_id, row, columns, stream):
    return row.new_empty(len(row), columns, dtype=torch.float32)


# Gradients. None stores noise: what a backward pass needs of it is drawn again.


def _rows(grad: torch.Tensor) -> torch.Tensor:
    """As the kernels read it: the gradient of a sum, say, is one number expanded."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


def _save_q_sample(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], inputs[2], inputs[4])


def _q_sample_backward(ctx, grad):
    t, signal, mask = ctx.saved_tensors
    return fused.scale_rows(_rows(grad), t, signal, mask), *[None] * 9


def _save_q_sample_drawn(ctx, inputs, output):
    ctx.save_for_backward(output[1], inputs[1], inputs[3])
    ctx.mark_non_differentiable(output[1])


def _q_sample_drawn_backward(ctx, grad, _):
    t, signal, mask = ctx.saved_tensors
    return fused.scale_rows(_rows(grad), t, signal, mask), *[None] * 10


def _save_scale_rows(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


def _scale_rows_backward(ctx, grad):
    return fused.scale_rows(_rows(grad), *ctx.saved_tensors), None, None, None


def _save_reverse_step(ctx, inputs, output):
    _, _, null, t, t_prev, abar, ctx.guidance, ctx.eta, ctx.ddpm, mask, *_ = inputs
    ctx.guided = null is not None
    ctx.save_for_backward(t, t_prev, abar, mask)


def _reverse_step_backward(ctx, grad):
    from mealrec.ops.reference import reverse_coefficients

    t, t_prev, abar, mask = ctx.saved_tensors
    x0hat, x, _ = reverse_coefficients(abar, t, t_prev, "ddpm" if ctx.ddpm else "ddim", ctx.eta)
    if mask is not None:
        grad = torch.where(mask[:, None], grad, 0)
    own = x0hat * (1 + ctx.guidance) if ctx.guided else x0hat
    null = (grad * (-ctx.guidance * x0hat)).to(grad.dtype) if ctx.guided else None
    return (grad * x).to(grad.dtype), (grad * own).to(grad.dtype), null, *[None] * 12


def _save_diffusion_loss(ctx, inputs, output):
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _diffusion_loss_backward(ctx, grad, _):
    (gradient,) = ctx.saved_tensors
    return (gradient * grad).to(gradient.dtype), None, None, None


def _save_dropout(ctx, inputs, output):
    _, residual, ctx.p, *place, ctx.stream = inputs
    ctx.residual = residual is not None
    ctx.save_for_backward(*place)


def _dropout_backward(ctx, grad):
    dropped = fused.dropout(_rows(grad), None, ctx.p, *ctx.saved_tensors, ctx.stream)
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
