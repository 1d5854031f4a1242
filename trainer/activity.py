"""When this process last got on with its work: what tells a rank that hangs from one that is busy.

Whatever works in small pieces (a step, a batch of an evaluation) notes each; work that cannot, such as a save
or a compilation, says so before it begins.
"""

from __future__ import annotations

import time

SLOW_FACTOR = 10.0  # how much longer than usual slow work may take

_noted, _factor = time.monotonic(), 1.0


def note() -> None:
    """Note that this process gets on."""
    _note(1.0)


def expect_slow_work() -> None:
    """Note it, and that nothing more may be heard for `SLOW_FACTOR` times as long as usual."""
    _note(SLOW_FACTOR)


def idle() -> float:
    """Return the seconds since the last note, after `expect_slow_work` a `SLOW_FACTOR`-th of them."""
    return (time.monotonic() - _noted) / _factor


def _note(factor: float) -> None:
    global _noted, _factor
    _noted, _factor = time.monotonic(), factor
