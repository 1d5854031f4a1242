"""The bootstrap on simulated runs whose true effect is known, and Holm's method by hand."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from tune.statistics import Bootstrap, holm

SEEDS = 5


def simulated(rng, users, effect, of_user, of_seed, of_both):
    """Gains of two variants by (variant, seed), whose differences have spreads of users, seeds and both."""
    hard = rng.normal(0, 1, users)  # some users are harder for both
    differences = effect + rng.normal(0, of_user, users)
    differences = differences + rng.normal(0, of_seed, (SEEDS, 1)) + rng.normal(0, of_both, (SEEDS, users))
    other = hard + rng.normal(0, 0.3, (SEEDS, 1)) + np.zeros(users)
    a = {("a", seed): other[seed] + differences[seed] for seed in range(SEEDS)}
    return {**a, **{("b", seed): other[seed] for seed in range(SEEDS)}}


PAIRS = [(("a", seed), ("b", seed)) for seed in range(SEEDS)]


@pytest.mark.parametrize(
    ("spreads", "lowest", "highest"),
    [
        ((1.0, 0.0, 0.0), 0.91, 0.98),  # users alone
        ((0.0, 0.1, 0.0), 0.91, 0.98),  # seeds alone: resampled as they are, they would reach .82
        ((0.7, 0.05, 0.0), 0.91, 0.99),
        ((0.7, 0.05, 0.7), 0.93, 1.0),  # what both have together is in both parts
    ],
)
def test_intervals_hold_the_true_difference_as_often_as_they_say(spreads, lowest, highest):
    rng, effect, inside, significant = np.random.default_rng(1), 0.2, 0, 0
    for trial in range(300):
        bootstrap = Bootstrap(simulated(rng, 200, effect, *spreads), draws=400, seed=trial)
        estimate = bootstrap.difference(PAIRS)
        inside += estimate.low <= effect <= estimate.high
        null = Bootstrap(simulated(rng, 200, 0.0, *spreads), draws=400, seed=trial).difference(PAIRS)
        significant += null.p < 0.05
        assert (null.p < 0.05) == (not null.low <= 0 <= null.high) or 0.03 < null.p < 0.07
    assert lowest <= inside / 300 <= highest
    assert 1 - highest - 0.02 <= significant / 300 <= 1 - lowest + 0.02


def test_where_seeds_alone_vary_the_interval_is_students():
    rng = np.random.default_rng(2)
    means = rng.normal(0, 1, SEEDS)
    runs = {seed: np.full(50, mean) for seed, mean in enumerate(means)}
    estimate = Bootstrap(runs, draws=100_000).mean(range(SEEDS))
    low, high = stats.t.interval(0.95, SEEDS - 1, means.mean(), stats.sem(means))
    assert estimate.value == pytest.approx(means.mean())
    assert estimate.deviation == pytest.approx(means.std(ddof=1))
    width = high - low
    assert estimate.low == pytest.approx(low, abs=0.08 * width)
    assert estimate.high == pytest.approx(high, abs=0.08 * width)


def test_where_users_alone_vary_the_interval_is_the_normal_one():
    gains = np.random.default_rng(3).exponential(size=2000)
    estimate = Bootstrap({0: gains, 1: gains, 2: gains}, draws=20_000).mean([0, 1, 2])
    half = 1.96 * gains.std() / 2000**0.5
    assert (estimate.low, estimate.high) == pytest.approx(
        (gains.mean() - half, gains.mean() + half), abs=0.05 * half
    )
    assert Bootstrap({0: gains}).mean([0]).low == pytest.approx(gains.mean() - half, abs=0.1 * half)


def test_pairs_are_compared_on_the_same_users_and_seeds():
    """A constant difference between runs that vary much has no spread at all."""
    rng = np.random.default_rng(4)
    b = {("b", seed): rng.normal(seed, 5, 300) for seed in range(3)}
    runs = {**b, **{("a", seed): gains + 0.125 for (_, seed), gains in b.items()}}
    estimate = Bootstrap(runs).difference([(("a", seed), ("b", seed)) for seed in range(3)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.125, 0.125, 0.125))
    assert estimate.p < 0.002


def test_equal_runs_differ_by_nothing():
    gains = np.random.default_rng(5).random(100)
    runs = {(name, seed): gains * (1 + seed) for name in "ab" for seed in range(SEEDS)}
    estimate = Bootstrap(runs).difference(PAIRS)
    assert (estimate.value, estimate.low, estimate.high, estimate.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_seed_has_an_interval_over_users_and_no_p():
    estimate = Bootstrap({0: np.arange(10.0)}).mean([0])
    assert estimate.low < 4.5 < estimate.high and estimate.seeds == 1
    assert math.isnan(estimate.p) and math.isnan(estimate.deviation)


def test_the_same_numbers_give_the_same_interval():
    runs = {seed: np.random.default_rng(seed).random(300) for seed in range(SEEDS)}
    assert Bootstrap(runs).mean(range(SEEDS)) == Bootstrap(runs).mean(range(SEEDS))


def test_runs_of_other_users_are_refused():
    for runs in ({0: np.ones(3), 1: np.ones(4)}, {}, {0: np.ones(0)}):
        with pytest.raises(ValueError, match="gains: found"):
            Bootstrap(runs)


def test_the_size_of_a_paper_takes_seconds():
    rng = np.random.default_rng(6)
    runs = {(name, seed): rng.random(50_000) for name in "ab" for seed in range(SEEDS)}
    started = time.process_time()
    Bootstrap(runs).difference(PAIRS)
    assert time.process_time() - started < 30


def test_holm_by_hand():
    # .01 x 4; .02 x 3; .03 x 2; .5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # .04 x 2 = .08, and the second may not be below it: .041 x 1
    assert holm([0.041, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    first, missing = holm([0.01, math.nan])  # two comparisons were planned
    assert first == pytest.approx(0.02) and math.isnan(missing)
