"""Checks of an operation's tensors before any launch; a ValueError says what does not match."""

from __future__ import annotations

import torch

from mealrec.ops.counters import Counters, check_counters


def check_rows(name: str, x: torch.Tensor, *others: torch.Tensor | None, like: bool = True) -> None:
    """Check that all are [R, D] of one width, dtype and device, with a contiguous last dimension.

    like: they have equally many rows, too.
    """
    given = [x, *(other for other in others if other is not None)]
    for other in given:
        if other.ndim != 2 or other.shape[not like :] != x.shape[not like :]:
            shapes = " and ".join(str(tuple(each.shape)) for each in given)
            raise ValueError(f"{name}: shapes {shapes}, expected equal [rows, width]")
        if other.dtype != x.dtype or other.device != x.device:
            types = f"{other.dtype} on {other.device} beside {x.dtype} on {x.device}"
            raise ValueError(f"{name}: {types}, expected the same")
        if other.shape[1] > 1 and other.stride(1) != 1:
            raise ValueError(f"{name}: strides {other.stride()}, expected a contiguous last dimension")


def check_index(name: str, row_R: torch.Tensor | None, x_UD: torch.Tensor, rows: int | None = None) -> None:
    """Check that the index, if any, is int64 [R], of `rows` entries if so many are needed, of rows of `x`.

    The latter on the CPU: a GPU's host would wait, so there the kernel ends with an error.
    """
    if row_R is None:
        return
    shape = row_R.shape[:1] if rows is None else (rows,)
    if row_R.dtype != torch.int64 or row_R.shape != shape or row_R.device != x_UD.device:
        kind = f"{row_R.dtype} {tuple(row_R.shape)} on {row_R.device}"
        expected = f"[{'rows' if rows is None else rows}] on {x_UD.device}"
        raise ValueError(f"{name}: row is {kind}, expected torch.int64 {expected}")
    if torch.compiler.is_compiling() or row_R.device.type != "cpu" or row_R.numel() == 0:
        return
    lowest, highest = (int(value) for value in torch.aminmax(row_R))
    if lowest < 0 or highest >= len(x_UD):
        raise ValueError(f"{name}: row is {lowest} .. {highest}, expected 0 .. {len(x_UD) - 1}")


def check_row_counters(name: str, counters: Counters, x: torch.Tensor, columns: int) -> None:
    """Check that the counters belong to the rows of `x`, for so many columns."""
    check_counters(counters, columns)
    _check_field(name, "sample_id", counters.sample_id, torch.int64, x)
    _check_field(name, "row", counters.row, torch.int64, x)


def check_mask(name: str, mask_R: torch.Tensor | None, x: torch.Tensor) -> None:
    """Check that the mask, if any, is bool [R]."""
    if mask_R is not None:
        _check_field(name, "mask", mask_R, torch.bool, x)


def check_logits(
    name: str,
    logits_KN: torch.Tensor,
    score_N: torch.Tensor,
    own_N: torch.Tensor,
    bias_K: torch.Tensor | None,
) -> None:
    """Check the logits as `check_scores` does, and that the fields of rows and columns match.

    On the CPU also that no own row is beyond the last.
    """
    row_N = _check_columns(name, "logits", logits_KN)
    _check_field(name, "score", score_N, torch.float32, row_N)
    _check_field(name, "own", own_N, torch.int64, row_N)
    if bias_K is not None:
        _check_field(name, "bias", bias_K, torch.float32, logits_KN)
    if own_N.device.type == "cpu" and own_N.numel() and int(own_N.max()) >= len(logits_KN):
        raise ValueError(f"{name}: own is up to {int(own_N.max())}, expected below {len(logits_KN)}")


def check_scores(name: str, score_KN: torch.Tensor, own_N: torch.Tensor) -> None:
    """Check that scores are float32 [K, N], K > 0, and dense, and that each column has one of its own."""
    _check_field(name, "own", own_N, torch.float32, _check_columns(name, "scores", score_KN))


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


def _check_columns(name: str, field: str, x_KN: torch.Tensor) -> torch.Tensor:
    """Check that the matrix is float32 [K, N], K > 0, and dense; returns a row, to compare fields with."""
    if x_KN.ndim != 2 or len(x_KN) == 0 or x_KN.dtype != torch.float32:
        kind = f"{x_KN.dtype} {tuple(x_KN.shape)}"
        raise ValueError(f"{name}: {field} are {kind}, expected torch.float32 [rows, columns] with a row")
    if not x_KN.is_contiguous():
        raise ValueError(f"{name}: {field} have strides {x_KN.stride()}, expected contiguous rows")
    return x_KN[0]
