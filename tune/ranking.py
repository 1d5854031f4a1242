"""A sweep's points in the order of validation, and which of them can be told apart from the best.

Scores are means over a point's seeds. Intervals of 95 % are those of the studies (`tune.statistics`), from
the ranks of the validation users that a finished run leaves. The best of many points is so by luck as well:
one whose difference from it has an interval with 0 in it may be as good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer import run_directory
from trainer.evaluation import ranks
from tune.ledger import COLUMNS
from tune.rows import Row, estimate_cells
from tune.statistics import Bootstrap

SHOWN = 20  # points of the printed table, and those that have intervals: each takes a bootstrap


def ranked(rows: list[Row], metric: str, mode: str, out: Path) -> list[Row]:
    """Return a row for each point that has been evaluated, best validation metric first.

    Its columns are the options that vary, `seeds`, the validation metric and its `difference` from the first
    row, both with the ends of their intervals where the point is among the first and all its runs have
    finished, and the test metric, which does not count.

    Args:
        rows: of results.csv.
        metric: such as ndcg@10.
        mode: "max" or "min": what is better.
        out: directory of the sweep.

    Raises:
        UserError: the ranks of a run cannot be read.
    """
    names = [name for name in rows[0] if name not in COLUMNS and not name.startswith(("valid ", "test "))]
    varied = [name for name in names if len({str(row[name]) for row in rows}) > 1]
    valid, test = f"valid {metric}", f"test {metric}"
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row[valid] != "":
            groups.setdefault(tuple(row[name] for name in varied), []).append(row)
    order = sorted(groups.items(), key=lambda item: _mean(valid, item[1]), reverse=mode == "max")
    best = _gains(order[0][1], metric, out) if order else {}
    ranking = []
    for place, (values, group) in enumerate(order):
        row = {**dict(zip(varied, values, strict=True)), "seeds": len(group)}
        row |= _compared(_gains(group, metric, out) if place < SHOWN else {}, best, valid, is_best=not place)
        row[valid] = _mean(valid, group)
        ranking.append({**row, test: _mean(test, [row for row in group if row[test] != ""])})
    return ranking


def as_text(ranking: list[Row], metric: str) -> str:
    """Return the first rows as an aligned table."""
    hidden = {f"{name} {end}" for name in (f"valid {metric}", "difference") for end in ("low", "high")}
    heads = [name for name in (ranking[0] if ranking else ()) if name not in hidden]
    table = [[name.removeprefix("model.") for name in heads]]
    table += [[_spelled(row, name) for name in heads] for row in ranking[:SHOWN]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: list[Row]) -> str:
    """Return how many points ended in which way, and the causes of failures."""
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("finished", "stopped", "failed")
    }
    causes = [f"failed: {row['id']}: {row['cause']}" for row in rows if row["status"] == "failed"]
    return "\n".join([", ".join(f"{count} {status}" for status, count in counts.items() if count), *causes])


def _mean(column: str, group: list[Row]) -> float | str:
    return sum(row[column] for row in group) / len(group) if group else ""


def _gains(group: list[Row], metric: str, out: Path) -> dict[int, np.ndarray]:
    """What each validation user adds to the metric, by seed; of none where a run has not finished."""
    files = {row["seed"]: run_directory.ranks(out / row["run"], "valid") for row in group}
    if not all(file.exists() for file in files.values()):
        return {}
    return {seed: ranks.read(file).gains()[metric] for seed, file in files.items()}


def _compared(point: dict[int, np.ndarray], best: dict[int, np.ndarray], valid: str, *, is_best: bool) -> Row:
    """The columns of a point's mean and of its difference from the best, over the seeds that both have."""
    mean = difference = None
    if point:
        names = {"point": point, "best": best}
        draws = Bootstrap({(name, seed): gain for name in names for seed, gain in names[name].items()})
        mean = draws.mean([("point", seed) for seed in point])
        pairs = [(("point", seed), ("best", seed)) for seed in point if seed in best]
        difference = draws.difference(pairs) if pairs and not is_best else None
    return estimate_cells(valid, mean) | estimate_cells("difference", difference)


def _spelled(row: Row, name: str) -> str:
    """A cell of the printed table: numbers of four digits, a difference with its interval."""
    value = row[name]
    if name == "difference":
        return "-" if value == "" else f"{value:+.4f} [{row[f'{name} low']:+.4f}, {row[f'{name} high']:+.4f}]"
    if name.startswith(("valid ", "test ")):
        return "-" if value == "" else f"{value:.4f}"
    return str(value)
