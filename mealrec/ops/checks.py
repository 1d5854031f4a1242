"""Checks of an operation's tensors before any launch; a ValueError says what does not match."""

from __future__ import annotations

import torch

from mealrec.ops.counters import Counters, check_counters


def check_rows(name: str, x: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Check that all are [R, D] of one shape, dtype and device, with a contiguous last dimension."""
    given = [x, *(other for other in others if other is not None)]
    for other in given:
        if other.ndim != 2 or other.shape != x.shape:
            shapes = " and ".join(str(tuple(each.shape)) for each in given)
            raise ValueError(f"{name}: shapes {shapes}, expected equal [rows, width]")
        if other.dtype != x.dtype or other.device != x.device:
            types = f"{other.dtype} on {other.device} beside {x.dtype} on {x.device}"
            raise ValueError(f"{name}: {types}, expected the same")
        if other.shape[1] > 1 and other.stride(1) != 1:
            raise ValueError(f"{name}: strides {other.stride()}, expected a contiguous last dimension")


def check_row_counters(name: str, counters: Counters, x: torch.Tensor) -> None:
    """Check that the counters belong to the rows of `x`."""
    check_counters(counters, x.shape[1])
    _check_field(name, "sample_id", counters.sample_id, torch.int64, x)
    _check_field(name, "row", counters.row, torch.int64, x)


def check_mask(name: str, mask_R: torch.Tensor | None, x: torch.Tensor) -> None:
    """Check that the mask, if any, is bool [R]."""
    if mask_R is not None:
        _check_field(name, "mask", mask_R, torch.bool, x)


def check_steps(
    name: str, step: str, t: torch.Tensor | int, low: int, steps: int, x: torch.Tensor
) -> torch.Tensor:
    """The rows' steps, int64 [R], checked to be in `low .. steps - 1`; an int is the step of all rows.

    Reading a GPU's tensor waits for the device, which a captured graph cannot do and a traced one need not.
    """
    if isinstance(t, int):
        _check_range(step, t, t, low, steps)
        return torch.full(x.shape[:1], t, dtype=torch.int64, device=x.device)
    _check_field(name, "step", t, torch.int64, x)
    if torch.compiler.is_compiling() or t.numel() == 0:
        return t
    if t.is_cuda and torch.cuda.is_current_stream_capturing():
        return t
    lowest, highest = torch.aminmax(t)
    _check_range(step, int(lowest), int(highest), low, steps)
    return t


def _check_range(step: str, lowest: int, highest: int, low: int, steps: int) -> None:
    if lowest < low or highest >= steps:
        raise ValueError(
            f"{step} of a step is outside the schedule: {lowest} .. {highest}, expected {low} .. {steps - 1}"
        )


def _check_field(name: str, field: str, tensor: torch.Tensor, dtype: torch.dtype, x: torch.Tensor) -> None:
    if tensor.dtype != dtype or tensor.shape != x.shape[:1] or tensor.device != x.device:
        kind = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name}: {field} is {kind}, expected {dtype} [{len(x)}] on {x.device}")
