"""What this machine has for a run: GPUs, cores, ranks, a free port. Determined without importing torch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import re
import socket
from pathlib import Path

from trainer.errors import UserError

# Below the ports that the kernel gives to outgoing connections, and PyTorch's.
PORTS = range(20_000, 29_000)


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    cuda = re.search(r"^cuda[^=\n]*= *(.*)$", version, re.MULTILINE)
    return cuda is not None and cuda.group(1).strip() != "None"


def gpus() -> list[str]:
    """Return the names of the GPUs that CUDA_VISIBLE_DEVICES leaves; makes no CUDA context."""
    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch_has_cuda():
        return []
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, name = ctypes.c_int(0), ctypes.create_string_buffer(128)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for device in range(count.value):
        cuda.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return names


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ranks(asked: int, gpus: int) -> int:
    """Return the number of ranks of a run on a machine with `gpus` GPUs.

    As many as `asked`; for 0 one per GPU, or two CPU ranks (one on a single core).

    Raises:
        UserError: more ranks than GPUs, or a negative number.
    """
    if asked < 0:
        raise UserError(f"--num_gpus must be at least 1, or 0 for all, not {asked}")
    if gpus:
        if asked > gpus:
            raise UserError(f"--num_gpus {asked}: this machine has {gpus} GPU{'s' if gpus > 1 else ''}")
        return asked or gpus
    return asked or min(2, cores())


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port of that address ("": of all) on which nothing listens."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
                return port
            except OSError:
                continue
    raise UserError(f"no free TCP port between {PORTS[0]} and {PORTS[-1]} for the ranks to meet on")
