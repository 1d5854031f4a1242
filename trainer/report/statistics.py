"""Means over users with bootstrap intervals, groups of users, and what a list of recommendations is like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SEED = 0
PERCENTILES = (2.5, 97.5)
HISTORY_EDGES = (1, 3, 6, 11, 21, 51, 101, 201)
COUNT_EDGES = (0, 1, 3, 6, 11, 21, 51, 101, 201, 501, 1001)


@dataclass(frozen=True)
class Estimate:
    """A mean over users, and the 95 % interval of its bootstrap."""

    mean: float
    low: float
    high: float

    @property
    def is_not_zero(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Group:
    """Users whose value is between two bounds: its label, and who they are, bool [U]."""

    label: str
    chosen: np.ndarray


def estimates(values_UK: np.ndarray) -> list[Estimate]:
    """Return the mean of each column over the users, float [U, K], with percentile intervals.

    All columns are resampled together: so a column of differences is a paired comparison. Without users the
    means are NaN.
    """
    users, columns = values_UK.shape
    if not users:
        return [Estimate(np.nan, np.nan, np.nan)] * columns
    rng = np.random.default_rng(SEED)
    means_RK = np.empty((RESAMPLES, columns))
    for resample in range(RESAMPLES):
        times_U = np.bincount(rng.integers(0, users, users), minlength=users)
        means_RK[resample] = times_U @ values_UK / users
    low_K, high_K = np.percentile(means_RK, PERCENTILES, axis=0)
    rows = zip(values_UK.mean(0), low_K, high_K, strict=True)
    return [Estimate(float(mean), float(low), float(high)) for mean, low, high in rows]


def groups(values_U: np.ndarray, edges: tuple[int, ...]) -> Iterator[Group]:
    """Yield the users by value, int64 [U], from each edge up to the next; groups without users are left out.

    Values below the first edge have a group of their own.
    """
    bounds = [np.iinfo(np.int64).min, *edges, np.iinfo(np.int64).max]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        chosen = (values_U >= start) & (values_U < stop)
        if chosen.any():
            yield Group(_label(int(start), int(stop), edges), chosen)


def _label(start: int, stop: int, edges: tuple[int, ...]) -> str:
    if start < edges[0]:
        return f"under {edges[0]}"
    if stop > edges[-1]:
        return f"{start} or more"
    return str(start) if stop == start + 1 else f"{start}–{stop - 1}"


@dataclass(frozen=True)
class Catalogue:
    """What recommended videos are like.

    coverage: share of the catalogue that somebody gets. novelty: mean of `-log2` of a recommended video's
    share of the training interactions. cold: share of the recommendations without training interactions.
    """

    coverage: float
    novelty: float
    cold: float


def catalogue(videos_N: np.ndarray, train_counts: np.ndarray) -> Catalogue:
    """Return what the videos of all recommendations are like.

    videos: int [N], videos 1..I, one for each place of a list; train_counts: int64 [I+1], row 0 the padding.
    A video without interactions counts as one with one. NaN where there are no recommendations.
    """
    if not len(videos_N):
        return Catalogue(0.0, np.nan, np.nan)
    count_N = train_counts[videos_N]
    share_N = np.maximum(count_N, 1) / max(int(train_counts.sum()), 1)
    return Catalogue(
        coverage=len(np.unique(videos_N)) / (len(train_counts) - 1),
        novelty=float(-np.log2(share_N).mean()),
        cold=float((count_N == 0).mean()),
    )
