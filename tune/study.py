"""A study: its cells over seeds as one sweep per data set, then its table and its figure."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.default_data import DEFAULT_DATA, make_default_data
from trainer.errors import UserError
from trainer.inputs import open_index
from tune import figures, statistics, tracking
from tune.designs import DESIGNS, Cell, baseline_of, default_of
from tune.ledger import Ledger, Row
from tune.space import Overrides, Space
from tune.sweep import run_points

METRIC = "ndcg@10"
TABLE_METRICS = ("hr@10", "ndcg@10")
COLUMNS = tuple(f"{split} {name}" for split in ("test", "valid") for name in TABLE_METRICS)
USERS = "test users"
MORE_SEEDS = (1, 2, 3)  # for the cells of a heat map that get more seeds

Scores = dict[Cell, dict[int, dict[str, float]]]
"""Metrics of each cell and seed; models are chosen by validation within each run."""


@dataclass
class Study:
    """Settings of a study."""

    name: str
    out: Path
    seeds: int
    quick: bool
    fixed: Overrides
    max_concurrent: int
    gpus_per_trial: int
    address: str | None

    @property
    def space(self) -> Space:
        """How its trials are run."""
        return Space(max_concurrent=self.max_concurrent, gpus_per_trial=self.gpus_per_trial)


def run_study(study: Study, data: list[Path]) -> bool:
    """Run what is missing, then write `NAME.csv`, `NAME.png` and `NAME.svg` into `study.out`.

    Started again with the same arguments it keeps what is finished. The studies in one `study.out` share the
    runs that they have in common: the full model, the backbone alone.

    Returns:
        Whether all runs finished.

    Raises:
        UserError: a data set that cannot be read, or an option for all runs that the study varies.
    """
    cells = DESIGNS[study.name](study.quick)
    for name in study.fixed:
        if any(name in dict(cell.overrides) for cell in cells):
            raise UserError(f"--{name}: the study {study.name} varies it itself")
    tracking.check([cells[0].point(study.fixed, 0)])
    if not data:
        data = [make_default_data(DEFAULT_DATA)]
    names = [open_index(path).name for path in data]
    if len(set(names)) < len(names):
        raise UserError(
            f"two data sets are named {max(names, key=names.count)}: import one with another --name"
        )
    scores = {name: score_data_set(study, path, cells) for name, path in zip(names, data, strict=True)}
    rows = [row for name in names for row in summary_rows(study.name, name, cells, scores[name])]
    study.out.mkdir(parents=True, exist_ok=True)
    with open(study.out / f"{study.name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(as_markdown(rows))
    for suffix in ("png", "svg"):
        figures.FIGURES[study.name](rows, study.out / f"{study.name}.{suffix}")
    print(f"written: {study.out / study.name}.csv, .png, .svg", file=sys.stderr)
    return all(row["seeds"] >= study.seeds for row in rows)


def score_data_set(study: Study, data: Path, cells: list[Cell]) -> Scores:
    """Score all cells on one data set; the default, best and worst cell of a heat map get more seeds."""
    seeds = list(range(study.seeds))
    scores = score_cells(study, data, {cell: seeds for cell in cells})
    if study.name == "sensitivity" and not study.quick:
        more: dict[Cell, list[int]] = {}
        for panel in dict.fromkeys(cell.panel for cell in cells):
            order = sorted(
                (cell for cell in cells if cell.panel == panel and scores.get(cell)),
                key=lambda cell: scores[cell][0]["valid " + METRIC],
            )
            weight, steps = default_of(panel)
            default = [cell for cell in order if (cell.row, cell.column) == (str(weight), str(steps))]
            more |= {cell: [*seeds, *MORE_SEEDS] for cell in (order[:1] + order[-1:] + default)}
        scores = score_cells(study, data, {cell: more.get(cell, seeds) for cell in cells})
    return scores


def score_cells(study: Study, data: Path, seeds_of: dict[Cell, list[int]]) -> Scores:
    """Return the metrics of cells and seeds, after running what is missing. Failed runs are left out."""
    points = {
        (cell, seed): cell.point(study.fixed, seed) for cell, seeds in seeds_of.items() for seed in seeds
    }
    distinct = {point.id: point for point in points.values()}
    ledger = Ledger(
        study.out / data.name,
        list(distinct.values()),
        data.absolute(),
        open_index(data).fingerprint,
        grows=True,
    )
    pending = [point for point in ledger.pending() if point.id in distinct]
    print(f"{data.name}: {len(distinct)} runs, {len(pending)} to do", file=sys.stderr)
    if pending:
        run_points(study.space, pending, ledger, data.absolute(), study.address)
    rows = {row["id"]: row for row in ledger.write()}
    for point_id in distinct:
        row = rows[point_id]
        if row["status"] != "finished":
            print(f"{ledger.out / row['run']} failed: {row['cause']}", file=sys.stderr)
    scores: Scores = {}
    for (cell, seed), point in points.items():
        row = rows[point.id]
        if row["status"] == "finished":
            scores.setdefault(cell, {})[seed] = {name: row[name] for name in (*COLUMNS, USERS)}
    return scores


def summary_rows(study: str, data: str, cells: list[Cell], scores: Scores) -> list[Row]:
    """Return one row per cell: means and standard deviations over seeds, and a test against the baseline."""
    rows = []
    for cell in cells:
        metrics = scores.get(cell, {})
        row: Row = {"data": data, "panel": cell.panel, "row": cell.row, "column": cell.column}
        row["seeds"] = len(metrics)
        row["users"] = next(iter(metrics.values()))[USERS] if metrics else ""
        for name in COLUMNS:
            row |= {name: "", f"{name} spread": ""}
            if metrics:
                summary = statistics.summarise([of_seed[name] for of_seed in metrics.values()])
                row |= {name: summary.mean, f"{name} spread": summary.deviation}
        baseline = baseline_of(study, cell, cells)
        row |= {"difference": "", "p": ""}
        if baseline is not None and metrics and scores.get(baseline):
            name = f"test {METRIC}"
            difference, p = statistics.paired_t_test(
                {seed: of_seed[name] for seed, of_seed in metrics.items()},
                {seed: of_seed[name] for seed, of_seed in scores[baseline].items()},
            )
            row |= {"difference": difference, "p": p}
        rows.append(row)
    return rows


def as_markdown(rows: list[Row]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| data | variant | | seeds | test HR@10 | test NDCG@10 | difference | p |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def number(value: Any, form: str) -> str:
        return "-" if value == "" or value != value else format(value, form)

    several_panels = len({row["panel"] for row in rows}) > 1
    for row in rows:
        scores = [
            f"{number(row[f'test {name}'], '.4f')} ± {number(row[f'test {name} spread'], '.4f')}"
            for name in TABLE_METRICS
        ]
        p = "< 0.01" if row["p"] != "" and row["p"] < 0.005 else number(row["p"], ".2f")
        name = f"{row['panel']} {row['row']}" if several_panels else row["row"]
        cells = [
            row["data"],
            name,
            row["column"],
            str(row["seeds"]),
            *scores,
            number(row["difference"], "+.4f"),
            p,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
