"""Traces of plotly.js. Colours are the page's: a trace only says which run it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report.blocks import label
from trainer.report.statistics import Estimate

MOST_POINTS = 2000  # of a line, on a screen that has fewer
STEPS = {"title": {"text": "step"}, "unifiedhovertitle": {"text": "step %{x}"}}
"""The axis of steps."""
Trace = dict[str, Any]


def finite(value: object) -> float | None:
    """Return a logged value as a number, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def curve(
    records: Sequence[Mapping[str, Any]],
    key: str,
    run: int,
    name: str,
    *,
    dash: str = "solid",
    markers: bool = False,
) -> Trace | None:
    """Return a line of one logged value by step; None where it was never logged, or is zero all the time.

    A loss of zero is that of a module that is switched off. A long line keeps every nth point and the last.
    """
    points = [(record["step"], value) for record in records if (value := finite(record.get(key))) is not None]
    if not any(value for _, value in points):
        return None
    every = -(-len(points) // MOST_POINTS)
    points = [*points[:-1:every], points[-1]]
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers or len(points) == 1 else "lines",
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "name": label(name),
        "line": {"dash": dash, "width": 2},
        "marker": {"size": 6},
        "meta": {"run": run},
        "hovertemplate": "%{y:.4f}",
    }


def bars(
    labels: Sequence[str], values: Sequence[Estimate | None], users: Sequence[int], run: int, name: str
) -> Trace:
    """Return a bar with its interval for each group of users; none where a run has no such group."""
    known = [value is not None for value in values]
    found = [value or Estimate(0.0, 0.0, 0.0) for value in values]
    return {
        "type": "bar",
        "x": list(labels),
        "y": [value.mean if there else None for value, there in zip(found, known, strict=True)],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [value.high - value.mean for value in found],
            "arrayminus": [value.mean - value.low for value in found],
            "thickness": 1.5,
            "width": 3,
        },
        "customdata": [[count, value.low, value.high] for count, value in zip(users, found, strict=True)],
        "name": label(name),
        "meta": {"run": run},
        "hovertemplate": "%{y:.4f} (%{customdata[1]:.4f} to %{customdata[2]:.4f}), %{customdata[0]} users",
    }
