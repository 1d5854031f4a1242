"""Processes that depend on each other: which is the operator, and whether one is still alive."""

from __future__ import annotations

import contextlib
import glob
import os

import psutil

OPERATOR_VARIABLE = "MEALREC_OPERATOR"
"""Environment variable that names the operator to its ranks, as `identity` writes it."""
POLL_SECONDS = 0.5


def identity(pid: int) -> str:
    """Return `pid:start time`, which no other process ever has."""
    return f"{pid}:{psutil.Process(pid).create_time()}"


class WatchedProcess:
    """A process that must stay alive; a later process with its pid is not it, and a zombie is gone."""

    def __init__(self, pid: int, created: float | None = None, role: str = "launcher") -> None:
        self.pid, self.role = pid, role
        try:
            self._process = psutil.Process(pid)
            self._gone = created is not None and abs(self._process.create_time() - created) > 0.1
        except psutil.NoSuchProcess:
            self._gone = True

    def is_gone(self) -> bool:
        """Whether the process has ended."""
        try:
            self._gone = (
                self._gone or not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            self._gone = True
        return self._gone


def operator() -> WatchedProcess | None:
    """Return the operator of this process, by `OPERATOR_VARIABLE`; None where there is none."""
    if OPERATOR_VARIABLE not in os.environ:
        return None
    pid, created = os.environ[OPERATOR_VARIABLE].split(":")
    return WatchedProcess(int(pid), float(created), role="operator")


def remove_shared_memory(port: int, folder: str = "/dev/shm") -> None:
    """Remove what DeepSpeed's CPU collectives on `port` leave in shared memory, 66 MiB per rank."""
    for path in glob.glob(f"{folder}/deepspeed_allreduce_buffer_*_{port}_*"):
        with contextlib.suppress(OSError):
            os.unlink(path)
