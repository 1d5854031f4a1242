"""Intervals against the normal distribution, groups and lists against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.report.statistics import COUNT_EDGES, HISTORY_EDGES, catalogue, estimates, groups


def test_intervals_are_those_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(5)
    values = np.stack([rng.random(4000) < 0.2, rng.normal(3, 2, 4000), np.full(4000, 7.0)], axis=1).astype(
        float
    )
    for column, found in enumerate(estimates(values)):
        error = values[:, column].std() / math.sqrt(4000)
        assert found.mean == pytest.approx(values[:, column].mean(), abs=1e-12)
        assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.1, abs=1e-9)
        assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.1, abs=1e-9)


def test_differences_are_paired() -> None:
    """Users differ far more than what is compared: only user by user is a small gain seen."""
    rng = np.random.default_rng(6)
    first = rng.normal(0, 10, 500)
    second = first + 0.1 + rng.normal(0, 0.1, 500)
    (paired,) = estimates((second - first)[:, None])
    assert paired.is_not_zero and 0.08 < paired.low < paired.high < 0.12
    alone = estimates(np.stack([first, second], axis=1))
    assert alone[0].high > alone[1].low and not any(each.is_not_zero for each in alone)


def test_resampling_repeats_and_nobody_is_no_error() -> None:
    values = np.random.default_rng(7).random((50, 1))
    assert estimates(values) == estimates(values)
    assert math.isnan(estimates(np.empty((0, 1)))[0].mean)


@pytest.mark.parametrize("edges", [HISTORY_EDGES, COUNT_EDGES])
def test_every_user_is_in_the_group_that_its_label_says(edges: tuple[int, ...]) -> None:
    values = np.array([*range(edges[0], 120), 200, 201, 500, 1000, 1001, 5000])
    members = np.zeros(len(values), int)
    for group in groups(values, edges):
        members += group.chosen
        low, _, high = group.label.replace(" or more", "–999999").partition("–")
        inside = [int(low) <= value <= int(high or low) for value in values.tolist()]
        assert group.chosen.tolist() == inside and any(inside), group.label
    assert (members == 1).all()
    assert next(groups(np.array([edges[0] - 1]), edges)).label == f"under {edges[0]}"
    assert not [*groups(np.empty(0, int), edges)]


def test_catalogue_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(8)
    counts = np.array([0, *rng.integers(0, 9, 30)])
    videos = rng.integers(1, 21, 200)
    found = catalogue(videos, counts)
    surprise = [-math.log2(max(counts[video], 1) / counts.sum()) for video in videos]
    assert found.coverage == len(set(videos.tolist())) / 30
    assert found.novelty == pytest.approx(sum(surprise) / 200)
    assert found.cold == sum(counts[video] == 0 for video in videos) / 200 > 0
    assert math.isnan(catalogue(videos[:0], counts).novelty)
