"""The fitted line is the line where there is one, and says where a cost bends away from it."""

from __future__ import annotations

import pytest

from bench.size import SERIES, fit


def test_a_line_is_found_at_all_scales() -> None:
    sizes = [10**3, 10**4, 10**5, 10**6]
    a, b = fit(sizes, [0.02 + 3e-7 * size for size in sizes])
    assert a == pytest.approx(0.02) and b == pytest.approx(3e-7)


def test_neither_part_is_negative() -> None:
    assert fit([1, 10, 100], [1.0, 0.9, 0.8])[1] == 0
    assert fit([1, 10, 100], [1.0, 20.0, 400.0])[0] == 0


def test_a_bend_shows_in_the_last_point() -> None:
    sizes = [10, 100, 1000]
    a, b = fit(sizes, [10.0, 100.0, 3000.0])
    assert 3000.0 / (a + b * 1000) > 1.3


@pytest.mark.parametrize("name", list(SERIES))
def test_each_series_works_at_its_smallest_size(name: str) -> None:
    SERIES[name].work(SERIES[name].values[0])()
