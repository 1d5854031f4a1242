"""The session of a launcher: which processes of a run are ours, and how all of them are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL


def session_members(leader: int) -> list[psutil.Process]:
    """Return the living processes of the session that `leader` leads."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def end_session(launcher: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """End every process of the launcher's session: SIGTERM, then, after `grace` seconds, SIGKILL."""
    try:
        _send(session_members(launcher.pid), signal.SIGTERM)
        deadline = time.monotonic() + grace
        while session_members(launcher.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
            launcher.poll()
    finally:
        _send(session_members(launcher.pid), signal.SIGKILL)
        launcher.wait()


def kill_session(launcher: subprocess.Popen[bytes] | int) -> None:
    """End every process of a session with SIGKILL, and pdsh's ssh connections in sessions of their own.

    Ranks on other hosts end as their connection does. Not with SIGTERM: DeepSpeed's runner would answer it by
    ending every DeepSpeed job of every host.
    """
    leader = launcher if isinstance(launcher, int) else launcher.pid
    own = psutil.Process()
    members = set(session_members(leader))
    for process in list(members):
        with contextlib.suppress(psutil.Error):
            members.update(process.children(recursive=True))
    _send([process for process in members if process != own], signal.SIGKILL)
    if isinstance(launcher, int):
        own.kill()
    else:
        launcher.wait()


def _send(processes: list[psutil.Process], signum: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signum)
