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
    ready: queue.SimpleQueue = queue.SimpleQueue()
    stopped = threading.Event()

    def produce() -> None:
        items = iter(source)
        try:
            while slots.acquire() and not stopped.is_set():
                ready.put((True, next(items)))
        except BaseException as error:  # StopIteration too: it ends the consumer
            ready.put((False, error))

    thread = threading.Thread(target=produce, name="shards-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            alive, item = ready.get()
            if not alive:
                if isinstance(item, StopIteration):
                    return
                raise item
            slots.release()
            yield item
    finally:
        stopped.set()
        slots.release()
        if not sys.is_finalizing():  # daemon threads no longer run then: to wait would be for ever
            thread.join()
