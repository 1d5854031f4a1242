"""What a split means: where leave-one-out cuts a sequence, and whom an evaluation counts.

A boundary is (train_end, valid_end): events [0, train_end) train, [train_end, valid_end) validate, the rest
test. A split's target is the last item of its part; the history is all before it.
"""

from __future__ import annotations

import numpy as np

MIN_EVALUATED = 3
"""Users with fewer items are kept for training only."""


def leave_one_out(length: np.ndarray) -> np.ndarray:
    """[n, 2]: the last item tests, the one before validates; users with fewer than 3 items train only."""
    back = np.where(length < MIN_EVALUATED, 0, 1)
    return np.stack([length - 2 * back, length - back], axis=1)


def evaluated(length: np.ndarray, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which users count in (validation, test): bool [n] each, from `length` [n] and `boundary` [n, 2].

    A part's target is its last item; it needs at least one item of history before it.
    """
    train_end, valid_end = boundary[:, 0], boundary[:, 1]
    enough = length >= MIN_EVALUATED
    return enough & (valid_end > train_end) & (valid_end >= 2), enough & (length > valid_end)
