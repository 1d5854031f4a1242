"""metrics.jsonl: one JSON object a line, written as it happens."""

from __future__ import annotations

import json
from pathlib import Path

from trainer import files
from trainer.metrics_file import damaged_lines, read
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


def cut_back(path: Path, step: int) -> str | None:
    """Drop what a killed run wrote after the checkpoint of `step`, and its final test.

    Where lines before the last one are damaged, the file is kept aside. Returns what to tell the user then.
    """
    if not path.exists():
        return None
    damaged = damaged_lines(path)
    kept = [record for record in read(path) if record["step"] <= step and record.get("split") != "test"]
    aside = files.set_aside(path) if damaged else None
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return (
        f"{path}: {damaged} damaged lines left out; the old file is kept as {aside.name}" if aside else None
    )
