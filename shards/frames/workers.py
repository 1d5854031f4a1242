"""Processes that read clips, each on one core. One that dies costs the clip that killed it, and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import numpy as np

from shards.frames.clips import Clip
from shards.frames.picture import Square
from shards.frames.read import Sampling, Unreadable, read_clip

Read = tuple[Clip, np.ndarray | Unreadable]
AHEAD = 2  # clips for each process, being read or waiting to be taken: bounds the memory


class Workers:
    """`count` processes. Leaving the context ends them."""

    def __init__(self, count: int, sampling: Sampling, square: Square):
        self.count = count
        self._task = (sampling, square)
        self._pool = _pool(count)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def read(self, clips: Iterable[Clip]) -> Iterator[Read]:
        """Each clip with its frames, or why it has none, in the order in which they are done."""
        rest = iter(clips)
        pending: dict[Future[np.ndarray | Unreadable], Clip] = {}
        while True:
            suspects: list[Clip] = []
            while len(pending) < AHEAD * self.count and (clip := next(rest, None)) is not None:
                try:
                    pending[self._pool.submit(read_clip, clip, *self._task)] = clip
                except BrokenProcessPool:
                    suspects.append(clip)
                    break
            if not pending and not suspects:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                clip = pending.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(clip)
                else:
                    yield clip, result
            if suspects:
                yield from self._one_by_one([*suspects, *pending.values()])
                pending.clear()
                self._pool = _pool(self.count)

    def _one_by_one(self, clips: Iterable[Clip]) -> Iterator[Read]:
        """Clips of which one has ended its process: each in a process of its own."""
        for clip in clips:
            with _pool(1) as pool:
                try:
                    yield clip, pool.submit(read_clip, clip, *self._task).result()
                except BrokenProcessPool:
                    yield clip, Unreadable("its process died: out of memory, or a fault in FFmpeg")


def _pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _prepare)


def _prepare() -> None:
    """In a new process: leave interrupts to the one that started it, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of a pool has one"
    parent.join()
    os._exit(1)
