"""Metrics over all users, with intervals, and what the other runs change against the first."""

from __future__ import annotations

import numpy as np

from mealrec.metrics import NAMES
from trainer.report.blocks import Cell, Section, Table, difference, estimate, number
from trainer.report.comparison import Comparison
from trainer.report.run_facts import RunFacts
from trainer.report.statistics import RESAMPLES, Estimate, estimates


def section(comparison: Comparison) -> Section:
    """Return the section."""
    runs, split = comparison.runs, comparison.split
    notes = [
        f"{run.name} has no ranks of its {split} users, so no intervals and groups: {_command(run, split)}"
        " writes them."
        for run in runs
        if run.ranks is None
    ]
    notes += filter(None, (comparison.refusal(place) for place in range(1, len(runs))))
    tables = [_metrics(comparison)] if any(_has_metrics(run, split) for run in runs) else []
    if others := comparison.comparable():
        tables.append(_differences(comparison, others))
    return Section(
        "accuracy",
        f"Accuracy on the {split} users",
        "Every video is ranked for every user. HR@K: the share of users whose next video is in the top K."
        f" Intervals: 95 %, bootstrap over users, {RESAMPLES} resamples.",
        notes,
        tables,
    )


def _command(run: RunFacts, split: str) -> str:
    """What writes a run's ranks: the evaluation that a run ends with."""
    command = f"python -m trainer evaluate {run.path}"
    steps = run.config.eval.test_sampler_steps
    return command if split == "test" else f"{command} --split {split} --sampler_steps {steps}"


def _has_metrics(run: RunFacts, split: str) -> bool:
    return run.ranks is not None or bool(run.results and run.results.of(split))


def _metrics(comparison: Comparison) -> Table:
    columns: list[tuple[str, list[Cell]]] = []
    heads = {}
    for place, run in enumerate(comparison.runs):
        results = run.results.of(comparison.split) if run.results else None
        cells = _cells(results)
        if run.ranks is not None:
            users = len(run.ranks.user)
            measured = map(estimate, _estimates(run.ranks.gains()))
            cells = [*measured, Cell(f"{users:,}", order=users)]
        heads[len(columns) + 1] = place
        columns.append((run.name, cells))
    columns += [(name, _cells(values)) for name, values in _references(comparison).items()]
    rows = [[Cell(name)] for name in (*map(str.upper, NAMES), "users")]
    for _, cells in columns:
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return Table("Metrics", ["", *(name for name, _ in columns)], rows, heads, sortable=True)


def _references(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Floor and ceiling of the test users, where they are the same for all runs."""
    depends = {(run.fingerprint, run.config.eval.mask_history) for run in comparison.runs}
    if comparison.split != "test" or len(depends) > 1:
        return {}
    results = next((run.results for run in comparison.runs if run.results), None)
    found = {"popularity": results.popularity, "oracle": results.oracle} if results else {}
    return {name: values for name, values in found.items() if values}


def _cells(values: dict[str, float] | None) -> list[Cell]:
    cells = [number((values or {}).get(name)) for name in NAMES]
    users = (values or {}).get("users")
    return [*cells, number(users) if users is None else Cell(f"{int(users):,}", order=users)]


def _estimates(metrics: dict[str, np.ndarray]) -> list[Estimate]:
    return estimates(np.stack([metrics[name] for name in NAMES], axis=1))


def _differences(comparison: Comparison, others: list[int]) -> Table:
    first = comparison.runs[0]
    assert first.ranks is not None, "comparable runs have ranks"
    before, columns = first.ranks.gains(), []
    for place in others:
        ranks = comparison.runs[place].ranks
        assert ranks is not None, "comparable runs have ranks"
        after = ranks.gains()
        changes = {name: after[name] - before[name] for name in NAMES}
        columns.append([difference(value) for value in _estimates(changes)])
    rows = [[Cell(name.upper()), *(column[row] for column in columns)] for row, name in enumerate(NAMES)]
    return Table(
        f"Difference to {first.name}, user by user",
        ["", *(comparison.runs[place].name for place in others)],
        rows,
        dict(enumerate(others, start=1)),
        sortable=True,
    )
