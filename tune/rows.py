"""Rows of the tables that sweeps and studies leave."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from trainer.files import replacing
from tune.statistics import Estimate

Row = dict[str, Any]  # of a CSV file, by column; "" is an empty cell


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows, which all have the columns of the first, as a CSV file in one step."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def estimate_cells(name: str, estimate: Estimate | None) -> Row:
    """Return the columns of an estimate: its value and the ends of its interval; empty for None."""
    values = (estimate.value, estimate.low, estimate.high) if estimate else ("", "", "")
    return dict(zip((name, f"{name} low", f"{name} high"), values, strict=True))
