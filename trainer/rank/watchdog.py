"""Ends a rank that no longer gets on: it waits for another rank, a loader process or a disk, perhaps forever.

A lost host and a stopped process are seen sooner, by the heartbeat. What is left is a rank whose threads live
on while its work does not.
"""

from __future__ import annotations

import contextlib
import faulthandler
import threading
from collections.abc import Iterator
from pathlib import Path

from trainer import activity, stacks
from trainer.rank.parent_watch import end_hung_rank

POLL_SECONDS = 1.0


@contextlib.contextmanager
def watching(run_dir: Path, rank: int, timeout: float) -> Iterator[None]:
    """Within, end this process after `timeout` seconds without an `activity.note`; 0 is no limit."""
    file = stacks.keep(run_dir, rank)
    stopped = threading.Event()
    activity.expect_slow_work()  # the first step loads, and may compile

    def watch() -> None:
        period = min(POLL_SECONDS, timeout / 10)
        while not stopped.wait(period):
            # Python's part is done by a thread of C where the interpreter itself is stuck.
            faulthandler.dump_traceback_later(activity.SLOW_FACTOR * timeout, exit=True, file=file)
            if activity.idle() > timeout:
                end_hung_rank(f"nothing got on for {timeout:g} s")

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    if timeout:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        if timeout:
            thread.join()
        faulthandler.cancel_dump_traceback_later()
        stacks.drop(file)
