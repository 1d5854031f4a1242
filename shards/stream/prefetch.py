"""A background thread that stays a few items ahead of its consumer."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(source: Iterable[T], ahead: int = 3) -> Iterator[T]:
    """The items of `source` in its order, made by one thread at most `ahead` before they are asked for.

    What `source` raises is raised here, after the items before it. The thread ends with this generator: when
    it is exhausted, closed or collected.
    """
    slots = threading.Semaphore(ahead)
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    stopped = threading.Event()

    def produce() -> None:
        items = iter(source)
        try:
            while slots.acquire() and not stopped.is_set():
                ready.put(next(items))
        except BaseException as error:
            ready.put(_End(error))

    thread = threading.Thread(target=produce, name="shards-prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            slots.release()
            yield item
        if not isinstance(item.error, StopIteration):
            raise item.error
    finally:
        stopped.set()
        slots.release()
        if not sys.is_finalizing():  # then daemon threads no longer run, and the wait would never end
            thread.join()


class _End:
    """What ended the source: StopIteration, or an error for the consumer."""

    def __init__(self, error: BaseException):
        self.error = error
