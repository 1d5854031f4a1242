"""The diffusion operations behind one public function each, with a `kernel=` choice.

`kernel="auto"` takes the fastest implementation that is there, `"reference"` the plain PyTorch one. All
implementations draw the same random numbers (`place.py`) and agree within floating-point rounding.
"""

from __future__ import annotations

import torch

from mealrec.ops import philox, reference
from mealrec.ops.place import Place, Stream
from mealrec.ops.schedule import Schedule, chain, infer_start

KERNELS = ("auto", "reference")

__all__ = [
    "KERNELS",
    "Place",
    "Schedule",
    "Stream",
    "bernoulli",
    "chain",
    "diffusion_loss",
    "draw_steps",
    "dropout",
    "infer_start",
    "normal",
    "q_sample",
    "reverse_step",
    "words",
]


def _choose(kernel: str):
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}, expected one of {', '.join(KERNELS)}")
    return reference


def _same_shape(name: str, x: torch.Tensor, other: torch.Tensor) -> None:
    if x.ndim != 2 or x.shape != other.shape:
        raise ValueError(
            f"{name}: shapes {tuple(x.shape)} and {tuple(other.shape)}, expected two equal [rows, width]"
        )


def _int64_rows(name: str, x: torch.Tensor, *per_row: torch.Tensor) -> None:
    for tensor in per_row:
        if tensor.dtype != torch.int64 or tensor.shape != x.shape[:1]:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{name}: got {found} for a per-row field, expected int64 [{x.shape[0]}]")


def q_sample(
    x0_RD: torch.Tensor,
    t_R: torch.Tensor,
    schedule: Schedule,
    place: Place,
    stream: int,
    *,
    kernel: str = "auto",
) -> torch.Tensor:
    """Corrupts rows to their step: `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` [DDPM].

    x0_RD: float [R, D]; t_R: int64 [R] in `0..T-1`; returns [R, D] in the dtype of `x0`. Differentiable in
    `x0`. Raises ValueError for rows that do not match.
    """
    _int64_rows("q_sample", x0_RD, t_R, place.sample_id, place.row)
    return _choose(kernel).q_sample(x0_RD, t_R, schedule, place, stream)


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
    kernel: str = "auto",
) -> torch.Tensor:
    """One step of the reverse chain from `x_t` and the prediction of `x_0`; see `reference.reverse_step` for
    the formulas.

    x, x0hat, null: float [R, D]; t, t_prev: int64 [R], `t_prev = -1` ends the chain; returns [R, D] in the
    dtype of `x`. Raises ValueError for shapes that do not match or an unknown sampler.
    """
    _same_shape("reverse_step", x_RD, x0hat_RD)
    _int64_rows("reverse_step", x_RD, t_R, t_prev_R, place.sample_id, place.row)
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"sampler is {sampler!r}, expected ddim or ddpm")
    return _choose(kernel).reverse_step(
        x_RD, x0hat_RD, t_R, t_prev_R, schedule, sampler, eta, place, stream, null_RD, guidance
    )


def diffusion_loss(
    prediction_RD: torch.Tensor, target_RD: torch.Tensor, mask_R: torch.Tensor, *, kernel: str = "auto"
) -> torch.Tensor:
    """Masked squared error of predicted rows: the sum over the rows where `mask` of the mean over D, a
    float32 scalar.

    prediction, target: float [R, D]; mask: bool [R]. Differentiable in the prediction; the target is data.
    """
    _same_shape("diffusion_loss", prediction_RD, target_RD)
    return _choose(kernel).diffusion_loss(prediction_RD, target_RD.detach(), mask_R)


def dropout(
    x_RD: torch.Tensor,
    p: float,
    place: Place,
    stream: int,
    *,
    residual_RD: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Counter-based dropout, with an optional residual added: `residual + x * keep / (1 - p)`, [R, D]."""
    _int64_rows("dropout", x_RD, place.sample_id, place.row)
    if p == 0:
        return x_RD if residual_RD is None else residual_RD + x_RD
    return _choose(kernel).dropout(x_RD, p, place, stream, residual_RD)


def draw_steps(place: Place, steps: int, stream: int) -> torch.Tensor:
    """A diffusion step for each row, int64 [R], uniform on `0..steps-1`."""
    return philox.integers(place, stream, steps)


def bernoulli(place: Place, p: float, stream: int) -> torch.Tensor:
    """A coin for each row, bool [R], true with probability `p`."""
    return philox.words(place, 1, stream)[:, 0] < round(p * 2**32)


def words(place: Place, columns: int, stream: int) -> torch.Tensor:
    """Random words int64 [R, columns], uniform on `[0, 2^32)`."""
    return philox.words(place, columns, stream)


def normal(place: Place, columns: int, stream: int) -> torch.Tensor:
    """Standard normals float32 [R, columns]."""
    return philox.normal(place, columns, stream)
