"""Ends the Ray that a sweep has started when the sweep itself is gone, even where it was killed -9.

Ray's own processes notice that after some time, some of them after a minute. The guard is a process of its
own, `python -m tune.guard TOKEN`: it waits for the end of its standard input, which the sweep holds open, and
then kills every process whose environment has the token.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid

import psutil

VARIABLE = "MEALREC_SWEEP"
SECONDS = 5.0  # in which processes that are starting appear


class Guard:
    """The guard of this process: what it starts from now on ends with it."""

    def __init__(self) -> None:
        os.environ[VARIABLE] = token = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tune.guard", token],
            stdin=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            start_new_session=True,
        )

    def close(self) -> None:
        """End what is left."""
        self._process.communicate()


def main(token: str) -> None:
    """Wait for the end of the sweep, and end what it has started."""
    sys.stdin.read()
    deadline = time.monotonic() + SECONDS
    quiet = False
    while not quiet and time.monotonic() < deadline:
        left = _started_with(token)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        quiet = not left
        time.sleep(0.2)


def _started_with(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(VARIABLE) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
