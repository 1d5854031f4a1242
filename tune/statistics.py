"""Means and spreads over seeds, and paired tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Of one cell: mean and standard deviation over seeds."""

    mean: float
    spread: float
    seeds: int


def summarise(values: list[float]) -> Summary:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(float(np.mean(values)), spread, len(values))


def paired(values: dict[int, float], base: dict[int, float]) -> tuple[float, float]:
    """Mean difference over the seeds that both have, and the two-sided p of a paired t-test; NaN below two
    seeds, or where all differences are equal.
    """
    from scipy import stats

    seeds = sorted(set(values) & set(base))
    differences = np.array([values[seed] - base[seed] for seed in seeds])
    if len(seeds) < 2 or np.ptp(differences) == 0:
        return (float(differences.mean()) if len(seeds) else math.nan), math.nan
    return float(differences.mean()), float(stats.ttest_1samp(differences, 0.0).pvalue)
