"""Which implementation of the operations a tensor goes to: `kernel="auto"`, or the one that is named."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from mealrec.ops import build, fused, reference
from mealrec.ops.implementation import Implementation
from mealrec.ops.known_answer import check_known_answer

KERNELS = ("auto", "cuda", "cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16)
"""What the kernels store; anything else goes through the reference under `auto`."""

log = logging.getLogger("mealrec")
Function = TypeVar("Function", bound=Callable[..., object])


def choose(kernel: str, x: torch.Tensor) -> Implementation:
    """`fused` or `reference` for an operation on `x`; $MEALREC_KERNEL, where set, replaces "auto".

    Raises:
        ValueError: an unknown name, or a kernel that does not take this tensor.
        build.Unavailable: a kernel is asked for by name and is not available.
    """
    if kernel == "auto":
        kernel = _wanted()
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}, expected one of {', '.join(KERNELS)}")
    if kernel == "reference":
        return reference
    device = x.device.type
    if kernel == "auto":
        supported = x.dtype in DTYPES or not x.dtype.is_floating_point
        return fused if supported and device in ("cpu", "cuda") and _loads(device) else reference
    if device != kernel:
        raise ValueError(f"kernel is {kernel!r} and the tensors are on {device!r}")
    if x.dtype.is_floating_point and x.dtype not in DTYPES:
        raise ValueError(f"kernel {kernel!r} takes float32 and bfloat16, found {x.dtype}")
    load(kernel)
    return fused


def _constant(function: Function) -> Function:
    """Let torch.compile take the result as a constant: the function reads the environment and may build."""
    marked: Function = torch.compiler.assume_constant_result(function)
    return marked


@_constant
def _wanted() -> str:
    return os.environ.get("MEALREC_KERNEL", "auto")


@_constant
def _loads(device: str) -> bool:
    return _failure(device) is None


@functools.cache
def _failure(kind: str) -> build.Unavailable | None:
    """Load and try the kernels, once per process; log which are used; returns why they are not available."""
    try:
        path = build.library(kind)
        torch.ops.load_library(str(path))
        check_known_answer(kind)
    except build.Unavailable as reason:
        log.warning(
            "the fused %s kernels are off, PyTorch is used instead: %s (`python -m mealrec.ops doctor`)",
            kind,
            reason,
        )
        return reason
    log.info("operations: fused %s kernels (%s)", kind, path.name)
    return None


@_constant
def load(kind: str) -> bool:
    """Load the kernels of `kind`, "cpu" or "cuda"; true, as torch.compile needs a result.

    Raises:
        build.Unavailable: they cannot be built, or answer wrongly.
    """
    reason = _failure(kind)
    if reason is not None:
        raise reason
    return True


def ready(kernel: str, device: torch.device) -> None:
    """Build or load what operations with this `kernel` on `device` will use, now rather than at first use.

    Raises:
        ValueError, build.Unavailable: as `choose` does.
    """
    choose(kernel, torch.empty(0, dtype=torch.int64, device=device))
