"""metrics.jsonl: one JSON object a line, written as it happens."""

from __future__ import annotations

import json
from pathlib import Path

from trainer import files
from trainer.rank.callbacks.base import Callback, Record
from trainer.rank.loop import Loop


class MetricsFile(Callback):
    """Appends every logged record and every evaluation to the file (rank 0)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, loop: Loop) -> None:
        """Open the file; only now, as a resume has cut it back first."""
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run

    def on_log(self, loop: Loop, record: Record) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    on_evaluation = on_log


def read(path: Path) -> list[Record]:
    """Return the records of a metrics file; a last line that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def cut_back(path: Path, step: int) -> None:
    """Drop what a killed run wrote after the checkpoint of `step`, and its final test."""
    if path.exists():
        kept = [record for record in read(path) if record["step"] <= step and record.get("split") != "test"]
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
