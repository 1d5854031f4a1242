"""Full-ranking metrics of known scores, in NumPy: for the oracle and the popularity floor of a synthetic
world.

With g videos above the target and e others equal to it, a metric is its mean over ranks g+1 .. g+e+1, so that
constant scores rank at chance. HR@K(rank) = [rank <= K], NDCG@K(rank) = [rank <= K] / log2(rank + 1),
MRR(rank) = 1 / rank.
"""

from __future__ import annotations

import numpy as np

CUTOFFS = (5, 10, 20)


def place(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(greater, equal) int64 [B] of `target` [B] (columns) among `scores` [B, I]; masked videos score
    -inf."""
    own = np.take_along_axis(scores, target[:, None], axis=1)
    return (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1


def rank_metrics(greater: np.ndarray, equal: np.ndarray, videos: int) -> dict[str, float]:
    """Means over users of hr@K, ndcg@K and mrr, rounded to 6 places; all 0 without users."""
    rank = np.arange(1, videos + 1)
    gains = {f"hr@{k}": (rank <= k).astype(float) for k in CUTOFFS}
    gains |= {f"ndcg@{k}": (rank <= k) / np.log2(rank + 1) for k in CUTOFFS}
    gains["mrr"] = 1 / rank
    result = {}
    for name, gain in gains.items():
        total = np.concatenate([[0.0], np.cumsum(gain)])
        mean = (total[greater + equal + 1] - total[greater]) / (equal + 1)
        result[name] = round(float(mean.mean()), 6) if len(mean) else 0.0
    return result
