"""A rank ends when one of the processes it depends on is gone: its launcher, the launcher's runner, the
operator.

DeepSpeed 0.19.8 leaves ranks alive when its runner gets SIGTERM on one node, and no handler runs in an
operator that is killed -9. So each rank looks after its own ancestors.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import threading
from typing import NoReturn

import psutil

OPERATOR = "MEALREC_OPERATOR"  # environment variable: pid and start time of the operator, "pid:time"
POLL_SECONDS = 0.5
_RUNNING_FAILED = 1
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh")


def identity(pid: int) -> str:
    """`pid:start time`, which no other process ever has, for the OPERATOR variable."""
    return f"{pid}:{psutil.Process(pid).create_time()}"


class Watched:
    """A process that must live on; a later process with its pid is not it, and a zombie is gone."""

    def __init__(self, pid: int, created: float | None = None, role: str = "launcher") -> None:
        self.pid, self.role = pid, role
        try:
            self._process = psutil.Process(pid)
            self._gone = created is not None and abs(self._process.create_time() - created) > 0.1
        except psutil.NoSuchProcess:
            self._gone = True

    def is_gone(self) -> bool:
        try:
            self._gone = (
                self._gone or not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            self._gone = True
        return self._gone


def ancestors() -> list[Watched]:
    """The processes that this rank depends on: its parent, DeepSpeed's runner above that, the operator."""
    parent = os.getppid()
    watched = [Watched(parent)]
    with contextlib.suppress(psutil.Error):
        if "deepspeed.launcher.launch" in psutil.Process(parent).cmdline():
            watched += _above(psutil.Process(parent))
    if OPERATOR in os.environ:
        pid, created = os.environ[OPERATOR].split(":")
        watched.append(Watched(int(pid), float(created), role="operator"))
    return watched


def _above(launch: psutil.Process) -> list[Watched]:
    """DeepSpeed's runner; on a host that it reached by ssh, the shell and the server of that connection."""
    found = []
    for process in launch.parents():
        if process.pid == 1:
            break
        name = process.name()
        if name.startswith("sshd"):
            return [*found, Watched(process.pid, role="ssh connection")]
        found.append(Watched(process.pid, role="DeepSpeed runner"))
        if name not in _SHELLS:
            break
    return found


def start() -> threading.Thread:
    """Watch the ancestors of this rank from a thread, which ends the process within two seconds of a loss."""
    watched = ancestors()
    parent = os.getppid()
    thread = threading.Thread(target=_watch, args=(watched, parent), name="watch", daemon=True)
    thread.start()
    return thread


def _watch(watched: list[Watched], parent: int) -> NoReturn:
    pause = threading.Event()
    while True:
        for process in watched:
            if process.is_gone():
                end_rank(f"its {process.role} (process {process.pid}) is gone")
        if os.getppid() != parent:
            end_rank(f"its launcher (process {parent}) is gone")
        pause.wait(POLL_SECONDS)


def end_rank(reason: str) -> NoReturn:
    """End this rank and its loader processes at once: the main thread may hang in a collective for ever."""
    with contextlib.suppress(OSError, ValueError):
        print(f"rank {os.environ.get('RANK', '?')} ends: {reason}", file=sys.stderr, flush=True)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if "MASTER_PORT" in os.environ:
        remove_shared_memory(int(os.environ["MASTER_PORT"]))
    os._exit(_RUNNING_FAILED)


def remove_shared_memory(port: int, folder: str = "/dev/shm") -> None:
    """Remove what DeepSpeed's CPU collectives leave in shared memory, 66 MiB a rank, for our port alone."""
    for path in glob.glob(f"{folder}/deepspeed_allreduce_buffer_*_{port}_*"):
        with contextlib.suppress(OSError):
            os.unlink(path)
