"""Intervals of means and of differences over seeds and users, by a hierarchical bootstrap.

Two things are samples: the seeds of the runs and the users of the split. Every run ranks the same users, so
the two cross, and a draw resamples both: the users of all runs alike, and the seeds. With `y[s, u]` what user
u adds to a metric in the run of seed s, or the difference of two variants of that (paired: the same seed and
the same users in both), a draw of the mean is

    mean over the drawn users of y[., u] + c * (mean over the drawn seeds of y[s, .] - mean of y)

Few seeds say little about their own spread: five observations resampled as they are make intervals of 95 %
that hold in 82 % of cases. So c is drawn, too, as `sqrt(S / chi^2)` with S - 1 degrees of freedom, which
makes the seeds' part as wide as Student's t does, at every level. What user and seed have only together
(which user a run happens to serve well) is in both parts, so intervals are rather too wide than too narrow.

Intervals are percentiles of the draws. A p-value is the share of draws beyond 0, on the smaller side, twice.
With one seed only users are resampled: the interval is that of this run, and there is no p-value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95
CHUNK = 1 << 22  # draws times users at once: 32 MiB of numbers


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, its 95 % interval, and how many seeds it is over.

    deviation: sample standard deviation over seeds; NaN for one. p: two-sided, that the true value is 0; NaN
    for one seed.
    """

    value: float
    low: float
    high: float
    deviation: float
    seeds: int
    p: float


class Bootstrap:
    """Draws of users, shared by all that is estimated from them."""

    def __init__(self, gains: Mapping[Any, np.ndarray], *, draws: int = DRAWS, seed: int = 0) -> None:
        """Draw users.

        Args:
            gains: what each user adds to a metric, float [users], by any name of a run, such as a variant and
                a seed; the same users in the same order.
            draws: of the bootstrap.
            seed: of the random numbers.

        Raises:
            ValueError: there are no users, or not the same number of them everywhere.
        """
        if {len(gain) for gain in gains.values()} - {len(next(iter(gains.values()), ()))} or not gains:
            raise ValueError("gains: found several numbers of users, or none, expected the same ones in all")
        matrix = np.stack([np.asarray(gain, np.float64) for gain in gains.values()], axis=1)
        if not len(matrix):
            raise ValueError("gains: found no users")
        self._rng = np.random.default_rng(seed)
        self._draws = draws
        self._column = {name: column for column, name in enumerate(gains)}
        self._mean = matrix.mean(0)
        self._drawn = _resampled(matrix, draws, self._rng)

    def mean(self, runs: Sequence[Hashable]) -> Estimate:
        """Estimate the mean over runs that differ in their seed."""
        columns = [self._column[run] for run in runs]
        return self._estimate(self._mean[columns], self._drawn[:, columns])

    def difference(self, pairs: Sequence[tuple[Hashable, Hashable]]) -> Estimate:
        """Estimate the mean of `a - b` over pairs of runs (a, b) of the same seed."""
        a, b = ([self._column[pair[side]] for pair in pairs] for side in (0, 1))
        return self._estimate(self._mean[a] - self._mean[b], self._drawn[:, a] - self._drawn[:, b])

    def _estimate(self, mean_S: np.ndarray, drawn_DS: np.ndarray) -> Estimate:
        """From the mean of each seed and, in each draw of users, its mean."""
        S, value = len(mean_S), float(mean_S.mean())
        draws = drawn_DS.mean(1)
        deviation = p = math.nan
        if S > 1:
            deviation = float(mean_S.std(ddof=1))
            times_DS = self._rng.multinomial(S, [1 / S] * S, size=self._draws)
            scale_D = np.sqrt(S / self._rng.chisquare(S - 1, size=self._draws))
            draws = draws + scale_D * (((times_DS - 1) / S) @ mean_S)
            beyond = min((draws <= 0).sum(), (draws >= 0).sum())
            p = min(1.0, 2 * (1 + float(beyond)) / (self._draws + 1))
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high), deviation, S, p)


def _resampled(matrix_UR: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The means of each run over drawn users, float64 [draws, runs]; the same users in all runs."""
    users = len(matrix_UR)
    size = max(1, CHUNK // users)
    parts = []
    for start in range(0, draws, size):
        count = min(size, draws - start)
        drawn = rng.integers(users, size=(count, users)) + users * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        parts.append(times.astype(np.float64) @ matrix_UR / users)
    return np.concatenate(parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons by Holm's method; a NaN counts as a comparison."""
    adjusted, highest = [math.nan] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    for place, i in enumerate(order):
        if not math.isnan(p_values[i]):
            highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
            adjusted[i] = highest
    return adjusted
