"""What a sweep leaves on disk: its points, how each ended, results.csv and the ranked table.

OUT/
  sweep.json          points, data, fingerprint: what `--resume` holds the next start against
  runs/ID/            the run directory of a point, as the trainer makes it
  ended/ID.json       how a point ended without results: stopped by the scheduler, or failed with its cause
  results.csv         a row a point
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer import run_directory
from trainer.errors import UserError
from tune.space import METRICS, Point

SWEEP, RUNS, ENDED, RESULTS = "sweep.json", "runs", "ended", "results.csv"


class Ledger:
    """The directory of one sweep."""

    def __init__(
        self,
        out: str | Path,
        points: list[Point],
        data: Path,
        fingerprint: str,
        *,
        resume: bool = False,
        grows: bool = False,
    ):
        """Starts a sweep in `out`, or continues the one there.

        grows: studies, whose points follow from what was found: the directory begins or continues with any
            points, which join those that are there.

        Raises:
            UserError: `out` holds a sweep and `resume` is off, or none and it is on; another data set, or
                other points.
        """
        self.out = Path(out).absolute()
        file = self.out / SWEEP
        before = run_directory.read_json(file) if file.is_file() else None
        if before is not None and grows:
            points = [*(Point(**point) for point in before["points"]), *points]
        self.points = list({point.id: point for point in points}.values())
        begun = {"data": str(data), "fingerprint": fingerprint, "points": [*map(asdict, self.points)]}
        if before is None and resume:
            raise UserError(f"--resume: {out} holds no sweep: no {SWEEP} there")
        if before is not None:
            if not resume and not grows:
                raise UserError(
                    f"{out} holds a sweep already: continue it with --resume, or name another --out"
                )
            if before["fingerprint"] != fingerprint:
                raise UserError(
                    f"--resume: the data set has changed since the sweep began: {data} has fingerprint"
                    f" {fingerprint}, the sweep {before['fingerprint']} (of {before['data']})"
                )
            if before["points"] != begun["points"] and not grows:
                raise UserError(f"--resume: {out} was begun with another space; give it another --out")
        try:
            (self.out / ENDED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out} cannot be made: {error.strerror}") from None
        if not resume:
            run_directory.write_json(file, begun)

    def run(self, point: Point) -> Path:
        return self.out / RUNS / point.id

    def ended(self, point_id: str) -> Path:
        """Where it is noted how a point ended without results."""
        return self.out / ENDED / f"{point_id}.json"

    def end(self, point_id: str, status: str, cause: str = "") -> None:
        note_end(self.ended(point_id), status, cause)

    def pending(self) -> list[Point]:
        """Points that have not ended. One that failed is tried again in the next start of the sweep."""
        return [point for point in self.points if self.status(point)[0] in ("pending", "failed")]

    def status(self, point: Point) -> tuple[str, str]:
        """(finished, stopped, failed or pending; cause)."""
        if run_directory.is_finished(self.run(point)):
            return "finished", ""
        note = self.ended(point.id)
        if note.is_file():
            said = run_directory.read_json(note)
            return said["status"], said["cause"]
        return "pending", ""

    def rows(self) -> list[dict[str, Any]]:
        """A row a point: options, seed, status, best validation metrics, test metrics, cost."""
        names = list(dict.fromkeys(name for point in self.points for name in point.overrides))
        rows = []
        for point in self.points:
            status, cause = self.status(point)
            results = self._results(point, status)
            row = {"id": point.id, "seed": point.seed, "status": status}
            row |= {name: point.overrides.get(name, "") for name in names}
            for split in ("valid", "test"):
                row |= {f"{split} {name}": (results.get(split) or {}).get(name, "") for name in METRICS}
            row["test users"] = (results.get("test") or {}).get("users", "")
            row |= {name: results.get(name, "") for name in ("epochs", "steps", "seconds")}
            rows.append({**row, "run": str(self.run(point).relative_to(self.out)), "cause": cause})
        return rows

    def write(self) -> list[dict[str, Any]]:
        """results.csv of what there is so far; its rows."""
        rows = self.rows()
        partial = self.out / f".{RESULTS}.partial"
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.out / RESULTS)
        return rows

    def _results(self, point: Point, status: str) -> dict[str, Any]:
        """results.json, or for a run that ended before it the best evaluation in its metrics."""
        run = self.run(point)
        if status == "finished":
            return run_directory.read_json(run / run_directory.RESULTS)
        file = run / run_directory.METRICS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        valid = [record for record in found if record.get("split") == "valid"]
        if not valid:
            return {}
        last = found[-1]
        best = max(valid, key=lambda record: record["ndcg@10"])
        return {"valid": best, "epochs": last["epoch"], "steps": last["step"]}


def note_end(path: str | Path, status: str, cause: str) -> None:
    """status: stopped or failed."""
    run_directory.write_json(path, {"status": status, "cause": cause})


def ranked(rows: list[dict[str, Any]], metric: str, mode: str, top: int = 20) -> str:
    """The points by the validation metric, best first, means over seeds. Test stands beside, and decides
    nothing.
    """
    fixed = {"id", "seed", "status", "epochs", "steps", "seconds", "run", "cause"}
    names = [name for name in rows[0] if name not in fixed and not name.startswith(("valid ", "test "))]
    varied = [name for name in names if len({str(row[name]) for row in rows}) > 1]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if row[f"valid {metric}"] != "":
            groups.setdefault(tuple(row[name] for name in varied), []).append(row)

    def average(group: list[dict[str, Any]], column: str) -> float | None:
        values = [row[column] for row in group if row[column] != ""]
        return sum(values) / len(values) if values else None

    order = sorted(
        groups.items(), key=lambda item: average(item[1], f"valid {metric}"), reverse=mode == "max"
    )
    heads = [*(name.removeprefix("model.") for name in varied), f"valid {metric}", f"test {metric}", "seeds"]
    table = [heads]
    for values, group in order[:top]:
        test = average(group, f"test {metric}")
        scores = [f"{average(group, f'valid {metric}'):.4f}", "-" if test is None else f"{test:.4f}"]
        table.append([*map(str, values), *scores, str(len(group))])
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("finished", "stopped", "failed")
    }
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    causes = [f"failed: {row['id']}: {row['cause']}" for row in rows if row["status"] == "failed"]
    return "\n".join([*lines, said, *causes])
