"""Schedules against their known values."""

import numpy as np
import pytest
import torch

from mealrec.ops import Schedule, infer_start
from mealrec.ops.schedule import alphas_bar, tables


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("linear", 10), 0.900),
        (Schedule("linear", 32), 0.713),
        (Schedule("linear", 20, 1e-4), 0.817),
        (Schedule("linear", 10, 1e-4), 0.904),
    ],
)
def test_last_abar(schedule, expected):
    assert alphas_bar(schedule)[-1] == pytest.approx(expected, abs=5e-4)


def test_cosine_and_sqrt_end_near_zero():
    assert alphas_bar(Schedule("cosine", 32))[-1] == pytest.approx(2e-7, rel=0.3)
    for T in (5, 20):
        t = np.arange(T)
        expected = np.maximum(1 - np.sqrt((t + 1) / T + 1e-4), 1e-4)
        np.testing.assert_allclose(alphas_bar(Schedule("sqrt", T)), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_schedules_lose_signal_and_start_where_half_is_left(name, steps):
    abar = alphas_bar(Schedule(name, steps))
    assert len(abar) == steps and (np.diff(np.concatenate([[1.0], abar])) < 0).all() and (abar > 0).all()
    start = infer_start(Schedule(name, steps))
    assert start == 0 or abar[start] >= 0.5
    assert start == steps - 1 or abar[start + 1] < 0.5
    assert infer_start(Schedule(name, steps), steps - 1) == steps - 1
    late = infer_start(Schedule(name, steps), -1, 0.96)
    assert late <= start and (late == 0 or abar[late] >= 0.96)
    table = tables(Schedule(name, steps), torch.device("cpu"))
    assert table.abar.dtype == torch.float32 and float(table.abar[0]) == 1.0


def test_unknown_schedule():
    with pytest.raises(ValueError, match="unknown schedule 'square'"):
        alphas_bar(Schedule("square"))
