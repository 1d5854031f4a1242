"""A study's tables: each cell with its interval and compared with its baseline, on all users and on parts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from tune.designs import PRIMARY, Cell, baseline_of
from tune.evidence import Evidence
from tune.rows import Row, estimate_cells
from tune.statistics import Bootstrap, Estimate, holm

METRIC = "ndcg@10"
METRICS = ("hr@10", METRIC)
LONGEST = np.iinfo(np.int64).max
# Parts of the users, by a column of the ranks: training events of the target, items of the history.
Parts = dict[str, tuple[int, int]]
POPULARITY: Parts = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20-99": (20, 99), "100+": (100, LONGEST)}
HISTORY: Parts = {"1-4": (1, 4), "5-9": (5, 9), "10-19": (10, 19), "20-49": (20, 49), "50+": (50, LONGEST)}
PARTS: dict[str, tuple[str, Parts]] = {"popularity": ("count", POPULARITY), "history": ("history", HISTORY)}
"""Name of a table -> column of the ranks, and the parts."""


def summary_rows(study: str, data: str, evidence: Evidence) -> list[Row]:
    """Return a row for each cell: means with intervals, and the difference from its baseline.

    The comparisons in `PRIMARY` have a p-value, adjusted by Holm's method within the data set.
    """
    draws = {metric: _bootstrap(evidence, metric) for metric in METRICS}
    rows: list[Row] = []
    compared: dict[int, float] = {}
    for cell in evidence.wanted:
        seeds = evidence.seeds(cell)
        row = _start(data, cell, evidence)
        for metric in METRICS:
            bootstrap = draws[metric]
            estimate = bootstrap.mean([(cell, seed) for seed in seeds]) if bootstrap and seeds else None
            row |= estimate_cells(f"test {metric}", estimate)
            row[f"test {metric} spread"] = _number(estimate.deviation if estimate else math.nan)
        for metric in METRICS:
            valid = [scores[f"valid {metric}"] for scores in evidence.valid.get(cell, {}).values()]
            row[f"valid {metric}"] = float(np.mean(valid)) if valid else ""
        difference = _difference(study, cell, evidence, draws[METRIC])
        row |= {**estimate_cells("difference", difference), "p": ""}
        if study == "ablation" and cell.row in PRIMARY:
            compared[len(rows)] = difference.p if difference else math.nan
        endings = Counter(training.ending for training in evidence.trainings.get(cell, {}).values())
        row["ending"] = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        rows.append(row)
    for at, p in zip(compared, holm([*compared.values()]), strict=True):
        rows[at]["p"] = _number(p)
    return rows


def part_rows(study: str, data: str, evidence: Evidence, table: str) -> list[Row]:
    """Return a row for each cell and part of the users, "popularity" or "history", that has any."""
    column, parts = PARTS[table]
    rows = []
    some = next((ranks for of_seed in evidence.ranks.values() for ranks in of_seed.values()), None)
    for name, (low, high) in parts.items():
        if some is None:
            continue
        values = getattr(some, column)
        chosen = (values >= low) & (values <= high)
        if not chosen.any():
            continue
        draws = _bootstrap(evidence, METRIC, chosen)
        for cell in evidence.wanted:
            seeds = evidence.seeds(cell)
            estimate = draws.mean([(cell, seed) for seed in seeds]) if draws and seeds else None
            rows.append(
                {
                    **_start(data, cell, evidence),
                    table: name,
                    "users": int(chosen.sum()),
                    **estimate_cells(f"test {METRIC}", estimate),
                    **estimate_cells("difference", _difference(study, cell, evidence, draws)),
                }
            )
    return rows


def as_markdown(rows: list[Row]) -> str:
    """Return the summary in Markdown, with 95 % intervals in brackets."""
    lines = [
        "| data | variant | | seeds | test HR@10 | test NDCG@10 | difference in NDCG@10 | p (Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    several_panels = len({row["panel"] for row in rows}) > 1
    for row in rows:
        p = row["p"]
        cells = [
            row["data"],
            f"{row['panel']} {row['row']}" if several_panels else row["row"],
            row["column"],
            f"{row['seeds']} of {row['seeds'] + row['missing']}" if row["missing"] else str(row["seeds"]),
            *(_spelled(row, f"test {metric}", ".4f") for metric in METRICS),
            _spelled(row, "difference", "+.4f"),
            "-" if p == "" else "< 0.001" if p < 0.001 else f"{p:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    missing = sum(row["missing"] for row in rows)
    note = [f"**Incomplete**: {missing} evaluations are missing.", ""] if missing else []
    return "\n".join([*note, *lines])


def references(data: str, evidence: Evidence) -> list[str]:
    """Return a line for popularity, and one for the oracle of a synthetic world: what runs stand between."""
    return [
        f"{data}, {name}: test HR@10 {scores['hr@10']:.4f}, NDCG@10 {scores['ndcg@10']:.4f}"
        for name, scores in evidence.references.items()
    ]


def _bootstrap(evidence: Evidence, metric: str, chosen: np.ndarray | None = None) -> Bootstrap | None:
    """Draw users, of the chosen ones; None where there is no run yet."""
    gains = {
        (cell, seed): ranks.gains(chosen)[metric]
        for cell, of_seed in evidence.ranks.items()
        for seed, ranks in of_seed.items()
    }
    return Bootstrap(gains) if gains else None


def _difference(study: str, cell: Cell, evidence: Evidence, draws: Bootstrap | None) -> Estimate | None:
    """Compare a cell with its baseline, over the seeds that both have."""
    baseline = baseline_of(study, cell, list(evidence.wanted))
    if baseline is None or draws is None:
        return None
    common = [seed for seed in evidence.seeds(cell) if seed in evidence.seeds(baseline)]
    return draws.difference([((cell, seed), (baseline, seed)) for seed in common]) if common else None


def _start(data: str, cell: Cell, evidence: Evidence) -> Row:
    """The columns that say of what a row is."""
    seeds = evidence.seeds(cell)
    return {
        "data": data,
        "panel": cell.panel,
        "row": cell.row,
        "column": cell.column,
        "seeds": len(seeds),
        "missing": len(evidence.wanted[cell]) - len(seeds),
        "users": len(evidence.ranks[cell][seeds[0]].above) if seeds else "",
    }


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _spelled(row: dict[str, Any], name: str, form: str) -> str:
    """An estimate with its interval."""
    if row[name] == "":
        return "-"
    return f"{row[name]:{form}} [{row[f'{name} low']:{form}}, {row[f'{name} high']:{form}}]"
