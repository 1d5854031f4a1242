"""What the tests of streams compare with."""

import torch


def windows(train_end, max_length, stride):
    """The windows of one training part in plain Python: `(start, stop, first_target)`, newest first."""
    cuts, stop = [], train_end
    while stop >= 2:
        start = max(stop - 1 - max_length, 0)
        cuts.append((start, stop, stop - stride if start else 1))
        if not start:
            break
        stop -= stride
    return cuts


def same(one, other):
    """Whether two nested lists of batches are equal in every bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
        )
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
