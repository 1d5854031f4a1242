"""A contestant's side of a race: it works for the time it is given, and reports what it did.

On standard input comes a number of core-seconds per round; on standard output goes a line of JSON per round.
It uses the standard library alone: peers run it with an interpreter of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Rounds:
    """Make it before any library is loaded that prints; `ready` when the work can begin."""

    def __init__(self) -> None:
        self._reports = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no report

    def ready(self, **about: str) -> None:
        """Say what is to be known (objective, version), and wait for the first round."""
        self._report(about)
        self._wait()

    def done(self, rows: int) -> None:
        """Count finished rows; when the round's time is used up, report it and wait for the next."""
        self._rows += rows
        seconds, wall = time.process_time() - self._begin, time.perf_counter() - self._begin_wall
        if seconds >= self._limit:
            self._report(
                {"rows": self._rows, "seconds": seconds, "wall": wall, "waited": self.waited, "peak": peak()}
            )
            self._wait()

    def over(self, batches: Iterable[T], rows: Callable[[T], int]) -> Iterator[T]:
        """The same batches, each counted when its work is done; the wait for them is timed."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - begin
            yield batch
            self.done(rows(batch))

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the race is over, wherever a library's loop is
        self._rows, self._limit, self.waited = 0, float(line), 0.0
        self._begin, self._begin_wall = time.process_time(), time.perf_counter()

    def _report(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), file=self._reports, flush=True)


def peak() -> int:
    """Peak resident bytes of this process.

    `ru_maxrss` would not do: it is inherited from the process that started this one.
    """
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
