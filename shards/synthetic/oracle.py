"""Full-ranking metrics of known scores, in NumPy: the oracle and the floor of a synthetic data set.

With g videos above the target and e others equal to it, a metric is its mean over positions g+1 .. g+e+1, so
that constant scores rank at chance. With the target at position p, HR@K = [p <= K], NDCG@K = [p <= K] /
log2(p + 1), MRR = 1 / p.
"""

from __future__ import annotations

import numpy as np

CUTOFFS = (5, 10, 20)


def count_greater_equal(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(greater, equal) int64 [B]: videos above `target` [B] (columns) in `scores` [B, I], others equal to it.

    Masked videos score -inf.
    """
    own = np.take_along_axis(scores, target[:, None], axis=1)
    return (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1


def ranking_metrics(greater: np.ndarray, equal: np.ndarray, videos: int) -> dict[str, float]:
    """Means over users of hr@K, ndcg@K and mrr, rounded to 6 decimal places; all 0 without users."""
    position = np.arange(1, videos + 1)
    gains = {f"hr@{k}": (position <= k).astype(float) for k in CUTOFFS}
    gains |= {f"ndcg@{k}": (position <= k) / np.log2(position + 1) for k in CUTOFFS}
    gains["mrr"] = 1 / position
    result = {}
    for name, gain in gains.items():
        total = np.concatenate([[0.0], np.cumsum(gain)])
        mean = (total[greater + equal + 1] - total[greater]) / (equal + 1)
        result[name] = round(float(mean.mean()), 6) if len(mean) else 0.0
    return result
