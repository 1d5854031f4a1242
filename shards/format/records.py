"""The two kinds of record, and what must hold of them.

The writer, the reader and `check` all judge records by these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_FIELDS = {
    "user": np.int64,
    "length": np.int32,
    "item": np.int32,
    "time": np.int64,
    "boundary": np.int32,
}


@dataclass(frozen=True)
class Block:
    """The sequences of n users, packed; events of a user are consecutive and oldest first.

    user      int64 [n]            sample_id
    length    int32 [n]            events of each user, >= 1
    item      int32 [sum length]   item rows, 1..I
    time      int64 [sum length]   as the source has it (seconds or ms), 0 where it has none
    boundary  int32 [n, 2]         (train_end, valid_end): events [0, train_end) are the training part,
                                   [train_end, valid_end) validation, [valid_end, length) test
    """

    user: np.ndarray
    length: np.ndarray
    item: np.ndarray
    time: np.ndarray
    boundary: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """int64 [n+1]: user r's events are `item[starts[r]:starts[r + 1]]`."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length, dtype=np.int64)])

    @classmethod
    def concatenate(cls, blocks: Iterable[Block]) -> Block:
        """Several blocks (at least one) as one."""
        parts = list(blocks)
        return cls(
            **{field: np.concatenate([getattr(part, field) for part in parts]) for field in BLOCK_FIELDS}
        )

    @property
    def in_training(self) -> np.ndarray:
        """Whether an event is in the training part: bool [sum length]."""
        position = np.arange(len(self.item)) - np.repeat(self.starts[:-1], self.length)
        in_training: np.ndarray = position < np.repeat(self.boundary[:, 0], self.length)
        return in_training

    def rows(self, start: int, stop: int) -> Block:
        """Users `start:stop` as a block of views."""
        starts = self.starts
        events = slice(starts[start], starts[stop])
        users = slice(start, stop)
        return Block(
            self.user[users], self.length[users], self.item[events], self.time[events], self.boundary[users]
        )


@dataclass(frozen=True)
class Fault:
    """What is wrong with one field of one record."""

    record: str
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"record {self.record}, field {self.field}: found {self.found}, expected {self.expected}"


def block_faults(block: Block, record: str, first_user: int, videos: int) -> Iterator[Fault]:
    """Faults of a block whose first user must be `first_user`, in a data set of `videos` items."""
    for field, dtype in BLOCK_FIELDS.items():
        value = getattr(block, field)
        if value.dtype != dtype or value.ndim != (2 if field == "boundary" else 1):
            yield Fault(record, field, f"{value.dtype} {list(value.shape)}", f"{np.dtype(dtype)} vector")
            return
    if not len(block.length):
        yield Fault(record, "length", "no users", "at least 1")
        return
    users, events = len(block.length), int(block.length.sum(dtype=np.int64))
    sizes = {"user": (users,), "item": (events,), "time": (events,), "boundary": (users, 2)}
    for field, shape in sizes.items():
        if getattr(block, field).shape != shape:
            yield Fault(record, field, f"shape {list(getattr(block, field).shape)}", f"shape {list(shape)}")
            return
    expected = np.arange(first_user, first_user + users)
    if (at := _first(block.user != expected)) is not None:
        yield Fault(record, "user", f"{block.user[at]} in row {at}", str(expected[at]))
    if (at := _first(block.length < 1)) is not None:
        yield Fault(
            record, "length", f"{block.length[at]} for user {expected[at]}", "at least 1 (an empty sequence)"
        )
        return
    if (at := _first((block.item < 1) | (block.item > videos))) is not None:
        user = expected[np.searchsorted(block.starts, at, side="right") - 1]
        yield Fault(record, "item", f"{block.item[at]} for user {user}", f"an item row in 1..{videos}")
    train_end, valid_end = block.boundary[:, 0], block.boundary[:, 1]
    if (at := _first((train_end < 0) | (train_end > valid_end) | (valid_end > block.length))) is not None:
        ends = f"({train_end[at]}, {valid_end[at]}) for user {expected[at]}"
        yield Fault(record, "boundary", ends, f"0 <= train_end <= valid_end <= {block.length[at]}")


def video_faults(
    frames: np.ndarray, count: int, record: str, shape: tuple[int, int], dtype: str
) -> Iterator[Fault]:
    """Faults of one video's features: `shape` = (M, V) of `dtype`, finite, zero past `count` frames."""
    if frames.dtype != np.dtype(dtype) or frames.ndim != 2:
        yield Fault(record, "frames", f"{frames.dtype} {list(frames.shape)}", f"{dtype} {list(shape)}")
        return
    if frames.shape[1] != shape[1]:
        yield Fault(record, "frames", f"width {frames.shape[1]}", f"width {shape[1]}")
        return
    if frames.shape[0] != shape[0]:
        yield Fault(record, "frames", f"{frames.shape[0]} frames", f"{shape[0]} frames (zero-padded)")
        return
    if not isinstance(count, int) or not 1 <= count <= shape[0]:
        yield Fault(record, "count", repr(count), f"1..{shape[0]} real frames")
        return
    if (at := _first(~np.isfinite(frames).all(axis=1))) is not None:
        value = frames[at][~np.isfinite(frames[at])][0]
        yield Fault(record, "frames", f"{value} in frame {at}", "finite numbers")
    elif frames[count:].any():
        yield Fault(record, "frames", f"numbers past frame {count}", f"zeros after the {count} real frames")


def _first(wrong: np.ndarray) -> int | None:
    """Position of the first True, or None."""
    at = int(np.argmax(wrong)) if wrong.size else 0
    return at if wrong.size and wrong[at] else None
