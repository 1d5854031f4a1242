"""Ends a rank when a process that it depends on is gone: its launcher, the launcher's runner, the operator.

DeepSpeed 0.19.8 leaves ranks alive when its runner gets SIGTERM on one node, and no handler runs in an
operator that is killed -9. So each rank watches its own ancestors.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn

import psutil

from trainer import stacks
from trainer.errors import FAILED
from trainer.processes import POLL_SECONDS, WatchedProcess, operator, remove_shared_memory

_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh")


def ancestors() -> list[WatchedProcess]:
    """Return the processes that this rank depends on: its parent, DeepSpeed's runner, the operator."""
    parent = os.getppid()
    watched = [WatchedProcess(parent)]
    with contextlib.suppress(psutil.Error):
        if "deepspeed.launcher.launch" in psutil.Process(parent).cmdline():
            watched += _above(psutil.Process(parent))
    if (process := operator()) is not None:
        watched.append(process)
    return watched


def _above(launch: psutil.Process) -> list[WatchedProcess]:
    """DeepSpeed's runner; on a host that it reached by ssh, the shell and the server of that connection."""
    watched: list[WatchedProcess] = []
    for process in launch.parents():
        if process.pid == 1:
            break
        name = process.name()
        if name.startswith("sshd"):
            return [*watched, WatchedProcess(process.pid, role="ssh connection")]
        watched.append(WatchedProcess(process.pid, role="DeepSpeed runner"))
        if name not in _SHELLS:
            break
    return watched


def start() -> threading.Thread:
    """Watch the ancestors of this rank from a thread, which ends the process within two seconds of a loss."""
    watched = ancestors()
    parent = os.getppid()
    thread = threading.Thread(target=_watch, args=(watched, parent), name="parent-watch", daemon=True)
    thread.start()
    return thread


def _watch(watched: list[WatchedProcess], parent: int) -> NoReturn:
    pause = threading.Event()
    while True:
        for process in watched:
            if process.is_gone():
                end_rank(f"its {process.role} (process {process.pid}) is gone")
        if os.getppid() != parent:
            end_rank(f"its launcher (process {parent}) is gone")
        pause.wait(POLL_SECONDS)


def end_hung_rank(reason: str) -> NoReturn:
    """End this rank, after it and the other ranks of its launcher have written their stacks."""
    _say(f"{reason}; stacks are in {stacks.FOLDER}/ of the run directory")  # first: the launcher may be quick
    with contextlib.suppress(psutil.Error):
        stacks.ask(psutil.Process(os.getppid()).children())
    _end()


def end_rank(reason: str) -> NoReturn:
    """End this rank and its loader processes at once: the main thread may hang in a collective."""
    _say(reason)
    _end()


def _say(reason: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"rank {os.environ.get('RANK', '?')} ends: {reason}", file=sys.stderr, flush=True)


def _end() -> NoReturn:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if "MASTER_PORT" in os.environ:
        remove_shared_memory(int(os.environ["MASTER_PORT"]))
    os._exit(FAILED)
