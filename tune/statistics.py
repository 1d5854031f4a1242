"""Means and standard deviations over seeds, and paired tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over seeds (NaN for one seed)."""

    mean: float
    deviation: float


def summarise(values: list[float]) -> Summary:
    """Summarise one value per seed."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(float(np.mean(values)), deviation)


def paired_t_test(values: dict[int, float], baseline: dict[int, float]) -> tuple[float, float]:
    """Compare values by seed: mean difference over the seeds that both have, and two-sided p.

    p is NaN for fewer than two seeds, or where all differences are equal.
    """
    from scipy import stats

    seeds = sorted(set(values) & set(baseline))
    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    if len(seeds) < 2 or np.ptp(differences) == 0:
        return (float(differences.mean()) if len(seeds) else math.nan), math.nan
    return float(differences.mean()), float(stats.ttest_1samp(differences, 0.0).pvalue)
