"""A study: its runs as one sweep per data set, their evaluations, then its tables and its figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainer.default_data import DEFAULT_DATA, make_default_data
from trainer.errors import UserError
from trainer.inputs import open_index
from tune import figures, tracking
from tune.designs import DESIGNS, MORE_SEEDS, Cell, baseline_of, cells_of, varied
from tune.evidence import STILL_IMPROVING, Evidence, read_ranks, read_references, read_training
from tune.ledger import Ledger
from tune.rows import Row, write_rows
from tune.space import Overrides, Space
from tune.sweep import run_points
from tune.tables import METRIC, METRICS, PARTS, as_markdown, part_rows, references, summary_rows

VALID = tuple(f"valid {name}" for name in METRICS)
RANKS = "ranks"  # folder of the ranks that are not a run's own


@dataclass
class Study:
    """Settings of a study.

    train: run what is missing; else only what is finished is looked at.
    """

    name: str
    out: Path
    seeds: int
    quick: bool
    fixed: Overrides
    max_concurrent: int
    gpus_per_trial: int
    address: str | None
    train: bool = True

    @property
    def space(self) -> Space:
        """How its trials are run."""
        return Space(max_concurrent=self.max_concurrent, gpus_per_trial=self.gpus_per_trial)


def run_study(study: Study, data: list[Path]) -> bool:
    """Run and evaluate what is missing, then write the tables and figures into `study.out`.

    `NAME.csv` with a figure; of studies that compare, `NAME-popularity.csv` and `NAME-history.csv` with one
    each; `NAME-curves` in PNG and SVG. Started again with the same arguments it keeps what is finished. The
    studies in one `study.out` share the runs that they have in common: the full model, the backbone alone.

    Returns:
        Whether all is there; else the tables say what is missing.

    Raises:
        UserError: a data set that cannot be read, or has no frames to add noise to; an option for all runs
            that the study varies.
    """
    every_cell = DESIGNS[study.name](study.quick)
    for name in study.fixed:
        if name in varied(every_cell):
            raise UserError(f"--{name}: the study {study.name} varies it itself")
    tracking.check(every_cell[0].points(study.fixed, 0, [0]))
    if not data:
        data = [make_default_data(DEFAULT_DATA)]
    indices = [open_index(path) for path in data]
    names = [index.name for index in indices]
    if len(set(names)) < len(names):
        raise UserError(
            f"two data sets are named {max(names, key=names.count)}: import one with another --name"
        )
    for index in indices:
        if study.name == "robustness" and not index.frames:
            raise UserError(f"{index.path}: no frame features, and the study robustness adds noise to them")
    found = {
        index.name: study_data_set(study, path, cells_of(study.name, study.quick, bool(index.frames)))
        for index, path in zip(indices, data, strict=True)
    }
    study.out.mkdir(parents=True, exist_ok=True)
    rows = [row for name in names for row in summary_rows(study.name, name, found[name])]
    print(as_markdown(rows))
    for name in names:
        print(*references(name, found[name]), sep="\n")
    for line in warnings(found):
        print(f"warning: {line}", file=sys.stderr)
    written = write(study, study.name, rows, figures.FIGURES[study.name])
    # Not of the heat maps, whose many cells would fill some hundred panels.
    if study.name != "sensitivity" and any(row["difference"] != "" for row in rows):
        for table in PARTS:
            of_parts = [row for name in names for row in part_rows(study.name, name, found[name], table)]
            written += write(study, f"{study.name}-{table}", of_parts, partial(figures.forest, table=table))
    curves = curve_rows(found)
    if curves:
        written += write(study, f"{study.name}-curves", curves, figures.curves)
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return not any(evidence.missing for evidence in found.values())


def study_data_set(study: Study, data: Path, cells: list[Cell]) -> Evidence:
    """Collect all cells of a data set; the default, best and worst cell of a heat map get more seeds."""
    seeds = list(range(study.seeds))
    wanted = {cell: of_cell for cell in cells if (of_cell := cell.seeds(seeds))}
    evidence = collect(study, data, wanted)
    if study.name == "sensitivity" and not study.quick:
        for panel in dict.fromkeys(cell.panel for cell in cells):
            of_panel = [cell for cell in cells if cell.panel == panel]
            order = sorted(
                (cell for cell in of_panel if 0 in evidence.valid.get(cell, {})),
                key=lambda cell: evidence.valid[cell][0][f"valid {METRIC}"],
            )
            default = next(cell for cell in of_panel if baseline_of(study.name, cell, cells) is None)
            for cell in (*order[:1], *order[-1:], default):
                wanted[cell] = list(dict.fromkeys([*seeds, *MORE_SEEDS]))
        evidence = collect(study, data, wanted)
    return evidence


def collect(study: Study, data: Path, wanted: dict[Cell, list[int]]) -> Evidence:
    """Return what there is of cells and seeds, after running and evaluating what is missing.

    Raises:
        UserError: runs that rank other users than the rest.
    """
    seeds = sorted({seed for seeds_of_cell in wanted.values() for seed in seeds_of_cell})
    # Seeds outermost: a study that is interrupted has whole comparisons.
    points = {
        (cell, seed): cell.points(study.fixed, seed, seeds)
        for seed in seeds
        for cell, seeds_of_cell in wanted.items()
        if seed in seeds_of_cell
    }
    distinct = {point.id: point for of_cell in points.values() for point in of_cell}
    ledger = Ledger(
        study.out / data.name,
        list(distinct.values()),
        data.absolute(),
        open_index(data).fingerprint,
        grows=True,
    )
    pending = [point for point in ledger.pending() if point.id in distinct]
    print(f"{data.name}: {len(distinct)} runs, {len(pending)} to do", file=sys.stderr)
    if pending and study.train:
        run_points(study.space, pending, ledger, data.absolute(), study.address)
    rows = {row["id"]: row for row in ledger.write()}
    for point_id in distinct:
        if rows[point_id]["status"] == "failed":
            print(f"{ledger.out / rows[point_id]['run']} failed: {rows[point_id]['cause']}", file=sys.stderr)
    evidence = Evidence(wanted)
    for (cell, seed), of_cell in points.items():
        if any(rows[point.id]["status"] != "finished" for point in of_cell):
            continue
        runs = [ledger.run(point) for point in of_cell]
        try:
            ranks = read_ranks(ledger.out / RANKS, runs, cell, data.absolute())
            evidence.add_ranks(cell, seed, ranks)
        except UserError as error:
            print(f"{cell.row} {cell.column}, seed {seed}: {error}", file=sys.stderr)
            continue
        evidence.references = evidence.references or read_references(runs[0])
        if cell.is_trained:
            row = rows[of_cell[0].id]
            evidence.valid.setdefault(cell, {})[seed] = {name: row[name] for name in VALID}
            evidence.trainings.setdefault(cell, {})[seed] = read_training(runs[0])
    return evidence


def curve_rows(found: dict[str, Evidence]) -> list[Row]:
    """Return a row for each evaluation in training: data, cell, seed, epoch and validation NDCG@10."""
    return [
        {
            "data": data,
            "variant": cell.label,
            "seed": seed,
            "epoch": round(epoch, 3),
            f"valid {METRIC}": score,
            "ending": training.ending,
        }
        for data, evidence in found.items()
        for cell, trainings in evidence.trainings.items()
        for seed, training in trainings.items()
        for epoch, score in training.curve
    ]


def warnings(found: dict[str, Evidence]) -> Iterator[str]:
    """Yield a line for each cell whose runs more epochs might have made better."""
    for data, evidence in found.items():
        for cell, trainings in evidence.trainings.items():
            endings = [training.ending for training in trainings.values()]
            if count := endings.count(STILL_IMPROVING):
                many = f"{count} of {len(endings)} runs were"
                yield f"{data}, {cell.label}: {many} best in the last epoch: raise train.max_epochs"


def write(study: Study, name: str, rows: list[Row], draw: Callable[[list[Row], Path], None]) -> list[Path]:
    """Write a table as CSV and its figure as PNG and SVG; return the files."""
    table, *pictures = (study.out / f"{name}.{suffix}" for suffix in ("csv", "png", "svg"))
    write_rows(table, rows)
    for picture in pictures:
        draw(rows, picture)
    return [table, *pictures]
