"""What a sweep leaves on disk: its points, how each ended, and results.csv.

OUT/
  sweep.json          points, data, fingerprint: what `--resume` compares the next start with
  runs/ID/            the run directory of a point, as the trainer makes it
  ended/ID.json       how a point ended without results: stopped by the scheduler, or failed with its cause
  results.csv         one row per point
  ranked.csv          the points by validation, with intervals, once all have ended: `tune.ranking`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer import run_directory
from trainer.errors import UserError
from trainer.files import read_json, write_json
from tune.rows import Row, write_rows
from tune.space import METRICS, Point

SWEEP, RUNS, ENDED, RESULTS, RANKED = "sweep.json", "runs", "ended", "results.csv", "ranked.csv"
# Columns of results.csv beside the options and the metrics.
COLUMNS = {"id", "seed", "status", "epochs", "steps", "seconds", "run", "cause"}


@dataclass(frozen=True)
class Outcome:
    """How a point ended: "finished", "stopped" or "failed" with the cause; or "pending"."""

    status: str
    cause: str = ""

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))


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
    ) -> None:
        """Start a sweep in `out`, or continue the one there.

        Args:
            out: directory of the sweep.
            points: all points of the sweep.
            data: its data set.
            fingerprint: of the data set.
            resume: continue the sweep in `out`.
            grows: for studies, which choose points by earlier results: `points` join those that are there.

        Raises:
            UserError: `out` holds a sweep and `resume` is off, or none and it is on; another data set, or
                other points.
        """
        self.out = Path(out).absolute()
        file = self.out / SWEEP
        previous = read_json(file) if file.is_file() else None
        if previous is not None and grows:
            points = [*(Point(**point) for point in previous["points"]), *points]
        self.points = list({point.id: point for point in points}.values())
        current = {"data": str(data), "fingerprint": fingerprint, "points": [*map(asdict, self.points)]}
        if previous is None and resume:
            raise UserError(f"--resume: {out} holds no sweep: no {SWEEP} there")
        if previous is not None:
            if not resume and not grows:
                raise UserError(
                    f"{out} holds a sweep already: continue it with --resume, or name another --out"
                )
            if previous["fingerprint"] != fingerprint:
                raise UserError(
                    f"--resume: the data set has changed since the sweep began: {data} has fingerprint"
                    f" {fingerprint}, the sweep {previous['fingerprint']} (of {previous['data']})"
                )
            if previous["points"] != current["points"] and not grows:
                raise UserError(f"--resume: {out} was begun with another space; give it another --out")
        try:
            (self.out / ENDED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out} cannot be made: {error.strerror}") from None
        if not resume:
            write_json(file, current)

    def run(self, point: Point) -> Path:
        """Return the run directory of a point."""
        return self.out / RUNS / point.id

    def outcome_file(self, point_id: str) -> Path:
        """Return the file that says how a point ended without results."""
        return self.out / ENDED / f"{point_id}.json"

    def outcome(self, point: Point) -> Outcome:
        """Return how a point ended."""
        if run_directory.is_finished(self.run(point)):
            return Outcome("finished")
        file = self.outcome_file(point.id)
        return Outcome(**read_json(file)) if file.is_file() else Outcome("pending")

    def pending(self) -> list[Point]:
        """List the points to run. One that failed is tried again by the next start of the sweep."""
        return [point for point in self.points if self.outcome(point).status in ("pending", "failed")]

    def rows(self) -> list[Row]:
        """Return one row per point: options, seed, status, best validation metrics, test metrics, cost."""
        names = list(dict.fromkeys(name for point in self.points for name in point.overrides))
        rows = []
        for point in self.points:
            outcome = self.outcome(point)
            results = self._results(point, outcome.status)
            row: Row = {"id": point.id, "seed": point.seed, "status": outcome.status}
            row |= {name: point.overrides.get(name, "") for name in names}
            for split in ("valid", "test"):
                row |= {f"{split} {name}": (results.get(split) or {}).get(name, "") for name in METRICS}
            row["test users"] = (results.get("test") or {}).get("users", "")
            row |= {name: results.get(name, "") for name in ("epochs", "steps", "seconds")}
            rows.append({**row, "run": str(self.run(point).relative_to(self.out)), "cause": outcome.cause})
        return rows

    def write(self) -> list[Row]:
        """Write results.csv from what is there so far, and return its rows."""
        rows = self.rows()
        write_rows(self.out / RESULTS, rows)
        return rows

    def _results(self, point: Point, status: str) -> dict[str, Any]:
        """Read results.json, or for a run that ended before it the best evaluation in its metrics."""
        run = self.run(point)
        if status == "finished":
            results: dict[str, Any] = read_json(run / run_directory.RESULTS)
            return results
        file = run / run_directory.METRICS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        records = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        valid = [record for record in records if record.get("split") == "valid"]
        if not valid:
            return {}
        last = records[-1]
        best = max(valid, key=lambda record: record["ndcg@10"])
        return {"valid": best, "epochs": last["epoch"], "steps": last["step"]}
