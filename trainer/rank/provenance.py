"""environment.json: what a run was made with, so that its numbers can be reproduced."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from shards.address import hide, shown
from trainer import command_line, distributed

PACKAGES = ("mealrec", "torch", "deepspeed", "webdataset", "numpy", "pyarrow", "ray")


def describe(world: distributed.World, *, seed: int, fingerprint: str, data: str) -> dict[str, Any]:
    """Return versions, the device of every rank, git state, seed and data. Every rank calls this."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.argv[0], *(hide(shown(word), data) for word in command_line.decode(sys.argv[1:]))],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "world_size": world.size,
        "devices": distributed.gather_objects(_device(world)),
        "git": git_state(),
        "seed": seed,
        "data": shown(data),
        "fingerprint": fingerprint,
    }


def git_state() -> dict[str, Any] | None:
    """Return the commit of this code and whether it was changed since; None outside a checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(world: distributed.World) -> dict[str, Any]:
    device = world.device
    about: dict[str, Any] = {"rank": world.rank, "host": platform.node(), "device": str(device)}
    if device.type == "cuda":
        return {**about, "name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {**about, "name": _processor(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
