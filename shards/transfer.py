"""Copies a file from a URL or a command to this host, and gives up where nothing arrives any more."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

STALLED_AFTER = 60.0  # seconds without a byte
_LOOK_EVERY = 0.5


def copy(address: str, path: Path, most: int) -> None:
    """Copy the file at `address` to `path`.

    Raises:
        TimeoutError: nothing has arrived for `STALLED_AFTER` seconds.
        OSError: more than `most` bytes arrive, or the command fails.
        Exception: what fsspec's back ends raise.
    """
    transfer: _Transfer = _Command(address, path) if address.startswith("pipe:") else _Download(address, path)
    arrived, since = 0, time.monotonic()
    try:
        while not transfer.ends_within(_LOOK_EVERY):
            size = path.stat().st_size if path.exists() else 0
            if size > most:
                raise OSError(f"found more than the {most} bytes that are expected")
            if size != arrived:
                arrived, since = size, time.monotonic()
            elif time.monotonic() - since > STALLED_AFTER:
                raise TimeoutError(f"nothing has arrived for {STALLED_AFTER:g} seconds")
    finally:
        transfer.stop()


class _Transfer(Protocol):
    """A copy that has begun."""

    def ends_within(self, seconds: float) -> bool:
        """Wait so long at most. Returns whether it has ended; raises what made it fail."""

    def stop(self) -> None:
        """Let go of it."""


class _Command:
    """A shell command that writes the file to its standard output."""

    def __init__(self, address: str, path: Path):
        with open(path, "wb") as sink:  # its own session, so that all it starts can be ended
            command = address.removeprefix("pipe:")
            self._process = subprocess.Popen(command, shell=True, stdout=sink, start_new_session=True)

    def ends_within(self, seconds: float) -> bool:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code:
            raise OSError(f"the command ended with exit code {code}")
        return True

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class _Download:
    """A download by fsspec in a thread, which is left to itself where it stalls: its file is removed."""

    def __init__(self, address: str, path: Path):
        self._address, self._path = address, path
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="shards-download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            from fsspec.core import url_to_fs  # here: only data sets that are not on this host need it

            # No shared instance: a forked data worker must not inherit its parent's connections.
            system, name = url_to_fs(self._address, skip_instance_cache=True)
            system.get_file(name, str(self._path))
        except Exception as error:
            self._error = error

    def ends_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> None:
        """Nothing: a thread cannot be ended."""
