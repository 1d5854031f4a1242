"""Sums over the records of a data set: the writer lists them in the index, `check` compares them with it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from shards.format.index import Counts
from shards.format.records import Block
from shards.format.splits import MIN_EVALUATED, evaluated


class Totals:
    """Running sums over blocks.

    train_counts  int64 [I+1]: events of each item in the training part
    """

    def __init__(self, videos: int):
        self.train_counts = np.zeros(videos + 1, np.int64)
        self.users = self.interactions = 0
        self._train_events = self._valid_users = self._test_users = self._short_users = 0

    def add(self, block: Block) -> None:
        """Count the users and events of a block."""
        trained = block.item[block.in_training]
        self.train_counts += np.bincount(trained, minlength=len(self.train_counts))
        valid, test = evaluated(block.length, block.boundary)
        self.users += len(block.user)
        self.interactions += len(block.item)
        self._train_events += len(trained)
        self._valid_users += int(valid.sum())
        self._test_users += int(test.sum())
        self._short_users += int((block.length < MIN_EVALUATED).sum())

    @property
    def counts(self) -> Counts:
        """The sums that the index lists under `counts`."""
        return Counts(self._train_events, self._valid_users, self._test_users, self._short_users)


class LengthHistogram:
    """Users by the length of their training part."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()

    def add(self, block: Block) -> None:
        """Count the users of a block."""
        self._users.update(block.boundary[:, 0].tolist())

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """((length, users), ...) ascending."""
        return tuple(sorted(self._users.items()))
