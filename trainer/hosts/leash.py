"""Runs DeepSpeed's runner for several hosts: `python -m trainer.hosts.leash SECONDS COMMAND ...`.

It stands between the operator and the runner, in the runner's session, and ends that session

- when the operator is gone, even where it was killed -9: on one host each rank watches the operator itself,
  but ranks on other hosts live by the ssh connections that the runner holds;
- when the connection to one host has ended and those to others live on for SECONDS: pdsh waits for them, and
  they may wait for that host.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil

from trainer import launcher, watch


def main(patience: float, command: list[str]) -> int:
    """Returns the command's exit code, 128 + N where signal N ended it."""
    pid, created = os.environ[watch.OPERATOR].split(":")
    operator = watch.Watched(int(pid), float(created), role="operator")
    process = subprocess.Popen(command)
    most, since = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(watch.POLL_SECONDS)
            return code if code >= 0 else 128 - code
        if operator.is_gone():
            launcher.kill_session(os.getsid(0))
        open_now = connections(process.pid)
        if open_now >= most:
            most, since = open_now, time.monotonic()
        elif patience and time.monotonic() - since > patience:
            print(f"{most - open_now} of {most} hosts ended {patience:g} s ago", file=sys.stderr, flush=True)
            launcher.kill_session(os.getsid(0))


def connections(runner: int) -> int:
    """Hosts that pdsh is connected to."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(runner).children():
            if child.name() == "pdsh":
                return sum(grandchild.name() == "ssh" for grandchild in child.children(recursive=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
