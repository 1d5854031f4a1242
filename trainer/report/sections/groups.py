"""HR@10 and NDCG@10 of groups of users: by the length of the history, and by how well known the target is."""

from __future__ import annotations

import numpy as np

from trainer.evaluation.ranks import Ranks
from trainer.report.blocks import Cell, Chart, Section, Table, estimate, number
from trainer.report.charts import bars
from trainer.report.comparison import Comparison
from trainer.report.statistics import COUNT_EDGES, HISTORY_EDGES, Estimate, estimates, groups

METRICS = {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}
Rows = dict[str, tuple[int, list[Estimate]]]
"""By the label of a group: its users, and the estimates of METRICS."""


def section(comparison: Comparison) -> Section:
    """Return the section."""
    ranked = {place: run.ranks for place, run in enumerate(comparison.runs) if run.ranks}
    if not ranked:
        return Section("groups", "")
    by_history = {place: _rows(ranks, ranks.history, HISTORY_EDGES) for place, ranks in ranked.items()}
    by_count = {place: _rows(ranks, ranks.count, COUNT_EDGES) for place, ranks in ranked.items()}
    history = "by the length of the history"
    count = "by the training interactions of the target"
    return Section(
        "groups",
        "Which users",
        "Groups of users by the number of videos in their history, and by how often their target, the next"
        " video, is in the training part. Intervals: 95 %, bootstrap over the users of a group.",
        [_cold(comparison.names[place], ranks) for place, ranks in ranked.items()],
        [
            *_tables(comparison, history, "videos", by_history),
            *_tables(comparison, count, "interactions", by_count),
        ],
        [
            *_charts(comparison, history, "videos in the history", by_history),
            *_charts(comparison, count, "training interactions of the target", by_count),
        ],
        key=True,
    )


def _rows(ranks: Ranks, values: np.ndarray, edges: tuple[int, ...]) -> Rows:
    metrics = ranks.gains()
    values_UK = np.stack([metrics[name] for name in METRICS], axis=1)
    return {
        group.label: (int(group.chosen.sum()), estimates(values_UK[group.chosen]))
        for group in groups(values, edges)
    }


def _cold(name: str, ranks: Ranks) -> str:
    cold = ranks.count == 0
    if not cold.any():
        return f"{name}: no user's target is cold; all of them have training interactions."
    metrics = ranks.gains()
    figures = [f"{shown} {metrics[key][cold].mean():.4f}" for key, shown in METRICS.items()]
    users = f"{int(cold.sum()):,} of {len(ranks.user):,} users"
    return f"{name}: {users} have a cold target, without training interactions: {', '.join(figures)}."


def _labels(found: dict[int, Rows], edges: tuple[int, ...]) -> list[str]:
    """The groups that any run has, in order."""
    every = np.arange(-1, max(edges) + 1)
    return [g.label for g in groups(every, edges) if any(g.label in rows for rows in found.values())]


def _tables(comparison: Comparison, caption: str, unit: str, found: dict[int, Rows]) -> list[Table]:
    """A table for each metric: the runs side by side."""
    edges = HISTORY_EDGES if unit == "videos" else COUNT_EDGES
    names = [comparison.names[place] for place in found]
    labels = _labels(found, edges)
    users = [[rows[label][0] if label in rows else 0 for label in labels] for rows in found.values()]
    if all(other == users[0] for other in users):
        users, heads = users[:1], ["users"]
    else:
        heads = [f"users {name}" for name in names]
    tables = []
    for column, shown in enumerate(METRICS.values()):
        rows = [
            [
                Cell(label, order=place),
                *(Cell(f"{counts[place]:,}", order=counts[place]) for counts in users),
                *(
                    estimate(groups_of_run[label][1][column]) if label in groups_of_run else number(None)
                    for groups_of_run in found.values()
                ),
            ]
            for place, label in enumerate(labels)
        ]
        runs = dict(enumerate(found, start=1 + len(heads)))
        tables.append(Table(f"{shown} {caption}", [unit, *heads, *names], rows, runs, sortable=True))
    return tables


def _charts(comparison: Comparison, title: str, axis: str, found: dict[int, Rows]) -> list[Chart]:
    edges = HISTORY_EDGES if axis.startswith("videos") else COUNT_EDGES
    labels = _labels(found, edges)
    charts = []
    for column, shown in enumerate(METRICS.values()):
        traces = [
            bars(
                labels,
                [rows[label][1][column] if label in rows else None for label in labels],
                [rows[label][0] if label in rows else 0 for label in labels],
                run,
                comparison.names[run],
            )
            for run, rows in found.items()
        ]
        layout = {
            "barmode": "group",
            "xaxis": {"type": "category", "title": {"text": axis}},
            "yaxis": {"rangemode": "tozero"},
        }
        name = f"{shown} {title}"
        charts.append(Chart(name, f"{name}, bars for each run; the table has the numbers", traces, layout))
    return charts
