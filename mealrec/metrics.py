"""Ranking metrics as exact sums (sum, users), to be reduced once over batches and ranks.

With `g` videos above the target and `e` others equal to it, a metric is its mean over the target ranks
`g+1 .. g+e+1`: a constant model scores at chance [ours].
"""

from __future__ import annotations

import torch

CUTOFFS = (5, 10, 20)
NAMES = tuple(f"{metric}@{k}" for metric in ("hr", "ndcg") for k in CUTOFFS) + ("mrr",)


def metric_sums(
    greater_B: torch.Tensor, equal_B: torch.Tensor, weight_B: torch.Tensor, videos: int
) -> dict[str, torch.Tensor]:
    """Float64 sums of hr@K, ndcg@K, mrr and users.

    greater, equal: int64 [B], as from `ranking.target_rank`; weight: float [B], 1 for a user and 0 for
    filler.
    """
    target_rank = torch.arange(1, videos + 1, dtype=torch.float64, device=greater_B.device)
    weight_B, ties_B = weight_B.double(), (equal_B + 1).double()
    last_B = greater_B + equal_B + 1

    def mean_over_ties(gain: torch.Tensor, cutoff: int) -> torch.Tensor:
        total = torch.cat([gain.new_zeros(1), gain[:cutoff].cumsum(0)])
        return (total[last_B.clamp_max(cutoff)] - total[greater_B.clamp_max(cutoff)]) / ties_B

    gains = {"hr": torch.ones_like(target_rank), "ndcg": 1 / torch.log2(target_rank + 1)}
    sums = {
        f"{name}@{k}": (mean_over_ties(gain, min(k, videos)) * weight_B).sum()
        for name, gain in gains.items()
        for k in CUTOFFS
    }
    sums["mrr"] = (mean_over_ties(1 / target_rank, videos) * weight_B).sum()
    sums["users"] = weight_B.sum()
    return sums


def finish(sums: dict[str, torch.Tensor]) -> dict[str, float | int]:
    """Means over users, and their number."""
    users = float(sums["users"])
    return {name: float(sums[name]) / max(users, 1.0) for name in NAMES} | {"users": int(users)}
