"""Skill against NumPy's least squares."""

import numpy as np
import pytest
import torch

from mealrec.skill import levels, skill_of


def test_skill_against_numpy():
    rng = np.random.default_rng(0)
    x0 = (
        rng.normal(size=(400, 3)) @ rng.normal(size=(3, 6)) + 2
    )  # of rank 3: a linear map can take noise away
    x = x0 + rng.normal(size=x0.shape)
    denoised = x0 + 0.1 * rng.normal(size=x0.shape)
    mask = rng.random(400) < 0.8
    fit, judge = mask[:200], mask[200:]
    with_one = np.hstack([x, np.ones((400, 1))])
    weight = np.linalg.lstsq(with_one[:200][fit], x0[:200][fit], rcond=None)[0]

    def error(estimate):
        return ((estimate - x0)[200:][judge] ** 2).sum()

    skill = skill_of(*(torch.from_numpy(array) for array in (denoised, x, x0, mask)))
    assert float(skill.over_identity) == pytest.approx(1 - error(denoised) / error(x), rel=1e-5)
    assert float(skill.over_linear) == pytest.approx(1 - error(denoised) / error(with_one @ weight), rel=1e-4)
    assert 0.5 < float(skill.over_linear) < float(skill.over_identity) < 1
    nothing = skill_of(*(torch.from_numpy(array) for array in (x, x, x0, mask)))
    assert float(nothing.over_identity) == 0 and float(nothing.over_linear) < 0


def test_a_rank_without_rows_fails_nothing():
    empty = torch.zeros(8, 4)
    skill = skill_of(empty, empty, empty, torch.zeros(8, dtype=torch.bool))
    assert all(torch.isfinite(value) for value in skill)


def test_levels_stay_within_a_short_chain():
    assert levels(10) == {"low": 0, "middle": 4, "high": 9}
    assert levels(1) == {"low": 0, "middle": 0, "high": 0}
