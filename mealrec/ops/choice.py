"""Which implementation of the operations serves a tensor: `kernel="auto"`, or the one that is named."""

from __future__ import annotations

import functools
import logging
import os
from types import ModuleType

import torch

from mealrec.ops import build, fused, reference

KERNELS = ("auto", "cuda", "cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16)
"""What the kernels store; anything else goes through the reference under `auto`."""

log = logging.getLogger("mealrec")


def choose(kernel: str, x: torch.Tensor) -> ModuleType:
    """`fused` or `reference` for an operation on `x`. $MEALREC_KERNEL stands for "auto".

    Raises ValueError for a name that is none, or a kernel that cannot serve this tensor; build.Unavailable
    where a kernel is asked for by name and cannot be had.
    """
    if kernel == "auto":
        kernel = _wanted()
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}, expected one of {', '.join(KERNELS)}")
    if kernel == "reference":
        return reference
    device = x.device.type
    if kernel == "auto":
        served = x.dtype in DTYPES or not x.dtype.is_floating_point
        return fused if served and device in ("cpu", "cuda") and _loads(device) else reference
    if device != kernel:
        raise ValueError(f"kernel is {kernel!r} and the tensors are on {device!r}")
    if x.dtype.is_floating_point and x.dtype not in DTYPES:
        raise ValueError(f"kernel {kernel!r} takes float32 and bfloat16, found {x.dtype}")
    load(kernel)
    return fused


# Compilers of graphs take this as known: it reads the environment and may build, once a process.
@torch.compiler.assume_constant_result
def _wanted() -> str:
    return os.environ.get("MEALREC_KERNEL", "auto")


@torch.compiler.assume_constant_result
def _loads(device: str) -> bool:
    """Whether the fused kernels are there; if not, said once and why."""
    return _tried(device) is None


@functools.cache
def _tried(kind: str) -> build.Unavailable | None:
    try:
        path = build.library(kind)
        torch.ops.load_library(str(path))
    except build.Unavailable as reason:
        log.warning(
            "the fused %s kernels are off, plain PyTorch works instead: %s (`python -m mealrec.ops doctor`)",
            kind,
            reason,
        )
        return reason
    log.info("diffusion operations: fused %s kernels (%s)", kind, path.name)
    return None


@torch.compiler.assume_constant_result
def load(kind: str) -> bool:
    """Makes the kernels of `kind`, "cpu" or "cuda", ready. Raises build.Unavailable with the reason where
    they cannot be had.
    """
    reason = _tried(kind)
    if reason is not None:
        raise reason
    return True


def ready(kernel: str, device: torch.device) -> None:
    """Builds or loads what operations with this `kernel` on `device` will use, now rather than at first use.

    Raises ValueError and build.Unavailable as `choose` does.
    """
    choose(kernel, torch.empty(0, dtype=torch.int64, device=device))
