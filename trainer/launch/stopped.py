"""Sees processes of a run that are stopped (SIGSTOP, a debugger) and keep all others waiting."""

from __future__ import annotations

import contextlib
import time

import psutil

from trainer import stacks
from trainer.launch.session import session_members

LOOKS_PER_TIMEOUT = 6
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


class Hung(Exception):
    """Processes of the run were stopped for too long; the message names them."""


class StoppedWatch:
    """Watches the session that `leader` leads."""

    def __init__(self, leader: int, timeout: float) -> None:
        """Set the limit: `timeout` seconds; 0 is none."""
        self._leader, self._timeout = leader, timeout
        self._since: dict[psutil.Process, float] = {}
        self._looked = time.monotonic()

    def look(self) -> None:
        """Look, not too often.

        Raises:
            Hung: a process has been stopped for the time of the limit; the ranks have written their stacks.
        """
        now = time.monotonic()
        if not self._timeout or now - self._looked < self._timeout / LOOKS_PER_TIMEOUT:
            return
        self._looked = now
        members = session_members(self._leader)
        stopped = [process for process in members if _is_stopped(process)]
        self._since = {process: self._since.get(process, now) for process in stopped}
        # A process may have been stopped just after the look before.
        patience = self._timeout * (1 - 1 / LOOKS_PER_TIMEOUT)
        long = [process for process, since in self._since.items() if now - since >= patience]
        if long:
            stacks.ask(members, seconds=3.0)  # on a machine where processes stop, others may be slow
            pids = ", ".join(str(process.pid) for process in long)
            raise Hung(f"processes of the run were stopped for {self._timeout:g} s: {pids}")


def _is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() in _STOPPED
    return False
