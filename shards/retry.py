"""Attempts with a growing pause between them, for what may go away: a busy store, a stumbling file system."""

from __future__ import annotations

import time
from collections.abc import Iterator

ATTEMPTS = 3
SECONDS = 1.0  # before the second attempt; doubles


def attempts() -> Iterator[int]:
    """The numbers of the attempts, with a pause before each but the first."""
    for number in range(ATTEMPTS):
        if number:
            time.sleep(SECONDS * 2 ** (number - 1))
        yield number
