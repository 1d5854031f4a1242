"""Ranking metrics as exact sums (sum, users), to be reduced once over batches and ranks.

With `g` videos above the target and `e` others equal to it, a metric is its mean over the target ranks
`g+1 .. g+e+1`: a constant model scores at chance [ours].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CUTOFFS = (5, 10, 20)
NAMES = tuple(f"{metric}@{k}" for metric in ("hr", "ndcg") for k in CUTOFFS) + ("mrr",)


def metric_sums(
    greater_B: torch.Tensor, equal_B: torch.Tensor, weight_B: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Float64 sums of hr@K, ndcg@K, mrr and users.

    greater, equal: int64 [B], as from `ranking.target_rank`; weight: float [B], 1 for a user and 0 for
    filler.
    """
    weight_B = weight_B.double()
    sums = {name: (value_B * weight_B).sum() for name, value_B in of_users(greater_B, equal_B).items()}
    return sums | {"users": weight_B.sum()}


def of_users(greater_B: torch.Tensor, equal_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each user's hr@K, ndcg@K and mrr, float64 [B] by name.

    greater, equal: int64 [B], as from `ranking.target_rank`.
    """
    ties_B = (equal_B + 1).double()
    last_B = greater_B + equal_B + 1
    rank = torch.arange(1, max(CUTOFFS) + 1, dtype=torch.float64, device=greater_B.device)
    gains = {"hr": torch.ones_like(rank), "ndcg": 1 / torch.log2(rank + 1)}
    totals = {name: F.pad(gain.cumsum(0), (1, 0)) for name, gain in gains.items()}  # of the ranks up to each
    values = {}
    for name, total in totals.items():
        for k in CUTOFFS:
            gain_B = total[last_B.clamp_max(k)] - total[greater_B.clamp_max(k)]
            values[f"{name}@{k}"] = gain_B / ties_B
    # A sum of 1 / rank is a difference of harmonic numbers, and those are digamma's; one rank alone is exact.
    harmonic_B = torch.digamma(last_B.double() + 1) - torch.digamma(greater_B.double() + 1)
    values["mrr"] = torch.where(equal_B == 0, 1 / last_B.double(), harmonic_B / ties_B)
    return values


def finish(sums: dict[str, torch.Tensor]) -> dict[str, float | int]:
    """Means over users, and their number."""
    users = float(sums["users"])
    return {name: float(sums[name]) / max(users, 1.0) for name in NAMES} | {"users": int(users)}
