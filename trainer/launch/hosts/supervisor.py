"""Runs DeepSpeed's runner for several hosts: `python -m trainer.launch.hosts.supervisor SECONDS COMMAND ...`.

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

from trainer import processes
from trainer.launch.session import kill_session


def main(timeout: float, command: list[str]) -> int:
    """Run the command. Returns its exit code, 128 + N where signal N ended it."""
    operator = processes.operator()
    process = subprocess.Popen(command)
    most, since = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(processes.POLL_SECONDS)
            return code if code >= 0 else 128 - code
        if operator is not None and operator.is_gone():
            kill_session(os.getsid(0))
        connected = connections(process.pid)
        if connected >= most:
            most, since = connected, time.monotonic()
        elif timeout and time.monotonic() - since > timeout:
            print(f"{most - connected} of {most} hosts ended {timeout:g} s ago", file=sys.stderr, flush=True)
            kill_session(os.getsid(0))


def connections(runner: int) -> int:
    """Return how many hosts pdsh is connected to."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(runner).children():
            if child.name() == "pdsh":
                return sum(grandchild.name() == "ssh" for grandchild in child.children(recursive=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
