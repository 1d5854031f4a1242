"""The splits that an import can make: where each user's training, validation and test part end.

A boundary is (train_end, valid_end), see `format.splits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from shards.errors import DataError, nearest
from shards.format.index import SPLIT_KINDS
from shards.format.splits import leave_one_out

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of the units that a time column may have."""


@dataclass(frozen=True)
class Split:
    """How sequences are cut. `valid_from`, `test_from`: the first time of each part, for `time` alone."""

    kind: str
    valid_from: int = 0
    test_from: int = 0

    def description(self) -> dict[str, Any]:
        """The split as the index describes it."""
        dates = {"valid_from": self.valid_from, "test_from": self.test_from} if self.kind == "time" else {}
        return {"kind": self.kind, **dates}

    def parts(self, time: np.ndarray, given: np.ndarray) -> np.ndarray:
        """The part (0, 1, 2) of every event; for `time` and `given` alone."""
        if self.kind == "given":
            return given
        return (time >= self.valid_from).astype(np.int8) + (time >= self.test_from)

    def boundary(self, length: np.ndarray, part: np.ndarray | None) -> np.ndarray:
        """int64 [n, 2] from `length` [n] and, for `time` and `given`, the parts [sum length] of the events.

        A user's parts ascend.
        """
        if self.kind == "leave-one-out":
            return leave_one_out(length)
        if part is None:
            return np.stack([length, length], axis=1)
        user = np.repeat(np.arange(len(length)), length)
        train, valid = (np.bincount(user[part == number], minlength=len(length)) for number in (0, 1))
        return np.stack([train, train + valid], axis=1)


def parse_split(text: str) -> tuple[str, list[str]]:
    """`leave-one-out`, `time:DATE`, `time:VALID_DATE,TEST_DATE`, `given`, `none` as (kind, dates).

    Raises:
        DataError: `text` is none of these.
    """
    kind, _, rest = text.partition(":")
    dates = [date for date in rest.split(",") if date]
    if kind not in SPLIT_KINDS or (kind == "time") != bool(dates) or len(dates) > 2:
        expected = "leave-one-out, time:DATE, time:VALID_DATE,TEST_DATE, given or none"
        raise DataError(f"--split: found {text!r}, expected {expected}; {nearest(kind, SPLIT_KINDS)}")
    return kind, dates


def time_split(dates: list[str], first: int, last: int) -> Split:
    """The split at `dates` of a log whose times run from `first` to `last`.

    With one date, the test part is all from then on and the validation part the span of the same length
    before it. A date is a number in the log's own unit, or `2022-04-21`, `2022-04-21 06:00` in UTC.
    """
    ticks = [_ticks(date, last) for date in dates]
    test_from = ticks[-1]
    valid_from = ticks[0] if len(ticks) == 2 else test_from - (last - test_from + 1)
    if not first < valid_from <= test_from <= last:
        parts = f"validation from {valid_from}, test from {test_from}"
        raise DataError(
            f"--split time: found {parts}, expected {first} < validation <= test <= {last} (the log's times)"
        )
    return Split("time", valid_from, test_from)


def _ticks(date: str, last: int) -> int:
    try:
        return int(date)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        raise DataError(
            f"--split time: found {date!r}, expected a date such as 2022-04-21 or a number"
        ) from None
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return int(moment.timestamp() * UNITS[time_unit(last)])


def time_unit(last: int) -> str:
    """The unit of a time column by its latest value: s, ms, us or ns since 1970, each good for centuries."""
    return next((unit for unit, ticks in UNITS.items() if abs(last) < 1e11 * ticks), "ns")
