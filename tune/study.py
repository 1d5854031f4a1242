"""A study: its cells over seeds as one sweep a data set, then its table and its figure."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.launch import operator
from trainer.errors import UserError
from trainer.inputs import open_index
from tune import figures, spread
from tune.ledger import Ledger
from tune.space import Space
from tune.studies import STUDIES, Cell, default_of, held_against
from tune.sweep import run

METRIC = "ndcg@10"
TABLE_METRICS = ("hr@10", "ndcg@10")
COLUMNS = tuple(f"{split} {name}" for split in ("test", "valid") for name in TABLE_METRICS)
USERS = "test users"
MORE_SEEDS = (1, 2, 3)  # for the cells of a heat map that are looked at closer


@dataclass
class Study:
    """What was asked for."""

    name: str
    out: Path
    seeds: int
    quick: bool
    fixed: dict[str, Any]
    max_concurrent: int
    gpus_per_trial: int
    address: str | None

    @property
    def space(self) -> Space:
        """How trials are run."""
        return Space(max_concurrent=self.max_concurrent, gpus_per_trial=self.gpus_per_trial)


Scores = dict[Cell, dict[int, dict[str, float]]]
"""Of each cell and seed, the metrics of the test split; models are chosen by validation within each run."""


def study(asked: Study, data: list[Path]) -> bool:
    """Runs what is missing, then writes `NAME.csv`, `NAME.png` and `NAME.svg` into `asked.out`. Returns
    whether all runs came to their ends.

    Started again with the same arguments it keeps what is finished. The studies in one `asked.out` share the
    runs that they have in common: the full model, the backbone alone.

    Raises:
        UserError: a data set that cannot be read, or an option for all runs that the study varies.
    """
    cells = STUDIES[asked.name](asked.quick)
    for name in asked.fixed:
        if any(name in dict(cell.options) for cell in cells):
            raise UserError(f"--{name}: the study {asked.name} varies it itself")
    if not data:
        operator.make_default_data(operator.DEFAULT_DATA)
        data = [operator.DEFAULT_DATA]
    names = [open_index(path).name for path in data]
    if len(set(names)) < len(names):
        raise UserError(
            f"two data sets are named {max(names, key=names.count)}: import one with another --name"
        )
    found = {name: of_data(asked, path, cells) for name, path in zip(names, data, strict=True)}
    rows = [row for name, scores in found.items() for row in table(asked.name, name, cells, scores)]
    asked.out.mkdir(parents=True, exist_ok=True)
    with open(asked.out / f"{asked.name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(as_text(rows))
    for suffix in ("png", "svg"):
        figures.FIGURES[asked.name](rows, asked.out / f"{asked.name}.{suffix}")
    print(f"written: {asked.out / asked.name}.csv, .png, .svg", file=sys.stderr)
    return all(row["seeds"] >= asked.seeds for row in rows)


def of_data(asked: Study, data: Path, cells: list[Cell]) -> Scores:
    """All cells on one data set; a heat map's default, best and worst cells get more seeds."""
    seeds = list(range(asked.seeds))
    scores = scored(asked, data, {cell: seeds for cell in cells})
    if asked.name == "sensitivity" and not asked.quick:
        closer = {}
        for panel in dict.fromkeys(cell.panel for cell in cells):
            order = sorted(
                (cell for cell in cells if cell.panel == panel and scores.get(cell)),
                key=lambda cell: scores[cell][0]["valid " + METRIC],
            )
            weight, T = default_of(panel)
            default = [cell for cell in order if (cell.row, cell.column) == (str(weight), str(T))]
            closer |= {cell: [*seeds, *MORE_SEEDS] for cell in (order[:1] + order[-1:] + default)}
        scores = scored(asked, data, {cell: closer.get(cell, seeds) for cell in cells})
    return scores


def scored(asked: Study, data: Path, wanted: dict[Cell, list[int]]) -> Scores:
    """The metrics of the wanted cells and seeds, run where they are not there yet."""
    points = {(cell, seed): cell.point(asked.fixed, seed) for cell, seeds in wanted.items() for seed in seeds}
    distinct = {point.id: point for point in points.values()}
    ledger = Ledger(
        asked.out / data.name,
        list(distinct.values()),
        data.absolute(),
        open_index(data).fingerprint,
        grows=True,
    )
    pending = [point for point in ledger.pending() if point.id in distinct]
    print(f"{data.name}: {len(distinct)} runs, {len(pending)} to do", file=sys.stderr)
    if pending:
        run(asked.space, pending, ledger, data.absolute(), asked.address)
    rows = {row["id"]: row for row in ledger.write()}
    for point in distinct:
        if rows[point]["status"] != "finished":
            print(f"{ledger.out / rows[point]['run']} failed: {rows[point]['cause']}", file=sys.stderr)
    scores: Scores = {}
    for (cell, seed), point in points.items():
        row = rows[point.id]
        if row["status"] == "finished":
            scores.setdefault(cell, {})[seed] = {name: row[name] for name in (*COLUMNS, USERS)}
    return scores


def table(study: str, data: str, cells: list[Cell], scores: Scores) -> list[dict[str, Any]]:
    """A row a cell: mean and spread over seeds on test, and the paired test against what it is held
    against.
    """
    rows = []
    for cell in cells:
        own = scores.get(cell, {})
        row: dict[str, Any] = {"data": data, "panel": cell.panel, "row": cell.row, "column": cell.column}
        row["seeds"] = len(own)
        row["users"] = next(iter(own.values()))[USERS] if own else ""
        for name in COLUMNS:
            row |= {name: "", f"{name} spread": ""}
            if own:
                summary = spread.summarise([metrics[name] for metrics in own.values()])
                row |= {name: summary.mean, f"{name} spread": summary.spread}
        base = held_against(study, cell, cells)
        row |= {"difference": "", "p": ""}
        if base is not None and own and scores.get(base):
            name = f"test {METRIC}"
            difference, p = spread.paired(
                {seed: metrics[name] for seed, metrics in own.items()},
                {seed: metrics[name] for seed, metrics in scores[base].items()},
            )
            row |= {"difference": difference, "p": p}
        rows.append(row)
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        "| data | variant | | seeds | test HR@10 | test NDCG@10 | difference | p |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def number(value: Any, form: str) -> str:
        return "-" if value == "" or value != value else format(value, form)

    several = len({row["panel"] for row in rows}) > 1
    for row in rows:
        scores = [
            f"{number(row[f'test {name}'], '.4f')} ± {number(row[f'test {name} spread'], '.4f')}"
            for name in TABLE_METRICS
        ]
        sure = row["p"] != "" and row["p"] < 0.005
        compared = [number(row["difference"], "+.4f"), "< 0.01" if sure else number(row["p"], ".2f")]
        name = f"{row['panel']} {row['row']}" if several else row["row"]
        cells = [row["data"], name, row["column"], str(row["seeds"]), *scores, *compared]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
