"""Metrics and target ranks against a brute-force ranking in NumPy, ties included."""

import math

import numpy as np
import pytest
import torch

from mealrec import ranking
from mealrec.metrics import NAMES, finish, metric_sums
from mealrec.ranking import target_rank


def brute_force(scores, target, seen):
    """The mean of each metric over all orders of the ties, one user."""
    allowed = [v for v in range(1, len(scores) + 1) if v == target or v not in seen]
    own = scores[target - 1]
    greater = sum(scores[v - 1] > own for v in allowed)
    equal = sum(scores[v - 1] == own for v in allowed if v != target)
    ranks = np.arange(greater + 1, greater + equal + 2)
    out = {f"hr@{k}": np.mean(ranks <= k) for k in (5, 10, 20)}
    out |= {f"ndcg@{k}": np.mean(np.where(ranks <= k, 1 / np.log2(ranks + 1), 0)) for k in (5, 10, 20)}
    return out | {"mrr": np.mean(1 / ranks)}


@pytest.mark.parametrize("chunk", [0, 1, 7, 40])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_ranks_and_metrics_against_brute_force(chunk, mask, biased):
    rng = np.random.default_rng(3)
    users, videos, dim = 30, 40, 3
    u = torch.from_numpy(rng.integers(-2, 3, (users, dim))).float()  # small integers: exact scores, many ties
    E = torch.from_numpy(rng.integers(-2, 3, (videos, dim))).float()
    bias = torch.from_numpy(rng.integers(-2, 3, videos)).float() if biased else None
    target = torch.from_numpy(rng.integers(1, videos + 1, users))
    history = [set(rng.integers(1, videos + 1, rng.integers(0, 12)).tolist()) for _ in range(users)]
    flat = [(v, row) for row, seen in enumerate(history) for v in seen]
    seen = tuple(torch.tensor(column) for column in zip(*flat, strict=True)) if mask else None
    weight = torch.ones(users)
    weight[5] = 0

    greater, equal = target_rank(u, E, target, seen, chunk, bias)
    result = finish(metric_sums(greater, equal, weight))
    scores = (u @ E.T + (0 if bias is None else bias)).numpy()
    rows = [
        brute_force(scores[i], int(target[i]), history[i] if mask else set()) for i in range(users) if i != 5
    ]
    assert result["users"] == users - 1
    for name in NAMES:
        assert result[name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-12), name


def test_users_in_parts_rank_as_all_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    u = torch.randint(-2, 3, (70, 3), generator=generator).float()
    E = torch.randint(-2, 3, (40, 3), generator=generator).float()
    target = torch.randint(1, 41, (70,), generator=generator)
    seen = (
        torch.randint(1, 41, (300,), generator=generator),
        torch.randint(0, 70, (300,), generator=generator),
    )
    whole = target_rank(u, E, target, seen)
    monkeypatch.setattr(
        ranking, "CHUNK_ELEMENTS", 40 * ranking.LEAST_USERS + 7
    )  # parts of 32, 32 and 6 users
    assert all(torch.equal(*pair) for pair in zip(whole, target_rank(u, E, target, seen), strict=True))


def test_a_constant_model_scores_at_chance():
    videos = 50
    greater, equal = target_rank(torch.zeros(4, 2), torch.randn(videos, 2), torch.tensor([1, 9, 33, 50]))
    result = finish(metric_sums(greater, equal, torch.ones(4)))
    assert result["hr@10"] == pytest.approx(10 / videos)
    assert result["mrr"] == pytest.approx(np.mean(1 / np.arange(1, videos + 1)))


def test_fewer_videos_than_the_cutoff():
    greater, equal = target_rank(torch.ones(1, 1), torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([3]))
    result = finish(metric_sums(greater, equal, torch.ones(1)))
    assert (
        result["hr@5"] == 1
        and result["mrr"] == pytest.approx(1 / 3)
        and result["ndcg@20"] == pytest.approx(0.5)
    )


@pytest.mark.parametrize("equal", [0, 1, 40, 9_000])
@pytest.mark.parametrize("greater", [0, 1, 9, 30, 999_000])
def test_the_mean_reciprocal_rank_of_ties_is_exact(greater, equal):
    sums = metric_sums(torch.tensor([greater]), torch.tensor([equal]), torch.ones(1))
    expected = math.fsum(1 / rank for rank in range(greater + 1, greater + equal + 2)) / (equal + 1)
    assert float(sums["mrr"]) == pytest.approx(expected, rel=0, abs=1e-14)
