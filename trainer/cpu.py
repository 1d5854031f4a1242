"""How a process uses the CPU: its threads wait without spinning, and it keeps the memory that it has freed.

What that saves is in `docs/performance.md`.
"""

from __future__ import annotations

import ctypes
import os

# OpenMP's threads spin while they wait, and keep the cores from all others: other ranks, other jobs.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of a process that we start; libgomp reads it when it is loaded, so with PyTorch."""

# glibc returns large blocks to the system when they are freed, and the kernel zeroes the pages of the next
# ones: half of an evaluation. Parameters of mallopt(3): their numbers in malloc.h, and values.
_MALLOC = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: do not give back the top of the heap
    -2: 64 << 20,  # M_TOP_PAD: grow in large steps
    -3: 1 << 30,  # M_MMAP_THRESHOLD: no mapping of their own for large blocks
    -8: 1,  # M_ARENA_MAX: threads free for each other, so that the peak does not grow
}


def settle() -> None:
    """Settle this process's use of the CPU; what the user has set in the environment is kept."""
    for name, policy in PASSIVE.items():
        os.environ.setdefault(name, policy)
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it; other allocators need no such help
    if mallopt is not None:
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)
