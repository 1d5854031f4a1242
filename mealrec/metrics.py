"""Ranking metrics as exact sums (sum, users), to be reduced once over batches and ranks.

With `g` videos above the target and `e` others equal to it, a metric is its mean over the target ranks
`g+1 .. g+e+1`: a constant model scores at chance [ours].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CUTOFFS = (5, 10, 20)
NAMES = tuple(f"{metric}@{k}" for metric in ("hr", "ndcg") for k in CUTOFFS) + ("mrr",)


def gains(greater_B: torch.Tensor, equal_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each user adds to hr@K, ndcg@K and mrr, float64 [B].

    greater, equal: int64 [B], as from `ranking.target_rank`.
    """
    ties_B, last_B = (equal_B + 1).double(), greater_B + equal_B + 1
    rank = torch.arange(1, max(CUTOFFS) + 1, dtype=torch.float64, device=greater_B.device)
    discounts = {"hr": torch.ones_like(rank), "ndcg": 1 / torch.log2(rank + 1)}
    gains_B = {}
    for name, discount in discounts.items():
        total = F.pad(discount.cumsum(0), (1, 0))  # of the ranks up to each
        for k in CUTOFFS:
            gains_B[f"{name}@{k}"] = (total[last_B.clamp_max(k)] - total[greater_B.clamp_max(k)]) / ties_B
    # A sum of 1 / rank is a difference of harmonic numbers, and those are digamma's; one rank alone is exact.
    harmonic_B = torch.digamma(last_B.double() + 1) - torch.digamma(greater_B.double() + 1)
    gains_B["mrr"] = torch.where(equal_B == 0, 1 / last_B.double(), harmonic_B / ties_B)
    return gains_B


def metric_sums(
    greater_B: torch.Tensor, equal_B: torch.Tensor, weight_B: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Float64 sums of hr@K, ndcg@K, mrr and users.

    greater, equal: int64 [B], as from `ranking.target_rank`; weight: float [B], 1 for a user and 0 for
    filler.
    """
    weight_B = weight_B.double()
    sums = {name: (gain_B * weight_B).sum() for name, gain_B in gains(greater_B, equal_B).items()}
    return {**sums, "users": weight_B.sum()}


def finish(sums: dict[str, torch.Tensor]) -> dict[str, float | int]:
    """Means over users, and their number."""
    users = float(sums["users"])
    return {name: float(sums[name]) / max(users, 1.0) for name in NAMES} | {"users": int(users)}
