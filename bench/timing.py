"""One way to time: contestants take turns in one run; medians and spread over the rounds are reported.

Cores are shared with other work, so a time is core-seconds: process time, all threads and the kernel's share
included. Waiting for other work does not count, though its use of caches and memory does; a ratio is taken in
each round, between neighbours, so that a machine that slows down slows both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Median and ends of some values."""
        return cls(statistics.median(values), min(values), max(values))


def core_seconds(work: Callable[[], object]) -> float:
    """Process time that a call takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contestant measures in each round, all in turn, after a round that does not count."""
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, measure in contestants.items():
            value = measure()
            if number:
                measured[name].append(value)
    return measured


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """`ours / theirs`, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
