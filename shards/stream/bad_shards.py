"""Sequence shards that cannot be read during a run: left out, as long as they are few."""

from __future__ import annotations

import sys

from shards.errors import DataError
from shards.format.index import Index
from shards.format.reader import read_sequence_shard
from shards.format.records import Block


class ShardReader:
    """Reads the sequence shards of a data set, of which `max_bad` may be unreadable.

    A shard that was once left out stays out, so that all epochs of a process train on the same.
    """

    def __init__(self, index: Index, max_bad: int = 0):
        self.index, self.max_bad = index, max_bad
        self.bad: set[int] = set()

    def read(self, number: int) -> Block | None:
        """The users of a shard; None where it cannot be read and is left out.

        Raises:
            DataError: it cannot be read, and too many others could not.
        """
        if number in self.bad:
            return None
        try:
            return read_sequence_shard(self.index, self.index.sequence_shards[number])
        except DataError as error:
            if len(self.bad) < self.max_bad:
                self.bad.add(number)
                count = f"{len(self.bad)} of at most {self.max_bad}"
                print(f"warning: left out a sequence shard ({count}): {error}", file=sys.stderr, flush=True)
                return None
            if not self.max_bad:
                raise
            raise DataError(f"{error}; {self.max_bad} other shards were left out before it") from None
