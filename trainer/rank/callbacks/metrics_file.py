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
    """Return the records of a metrics file, without damaged lines such as a last one that was cut short."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [record for line in lines if (record := _record(line)) is not None]


def cut_back(path: Path, step: int) -> str | None:
    """Drop what a killed run wrote after the checkpoint of `step`, and its final test.

    Where lines before the last one are damaged, the file is kept aside. Returns what to tell the user then.
    """
    if not path.exists():
        return None
    damaged = sum(_record(line) is None for line in path.read_bytes().splitlines()[:-1])
    kept = [record for record in read(path) if record["step"] <= step and record.get("split") != "test"]
    aside = files.set_aside(path) if damaged else None
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return (
        f"{path}: {damaged} damaged lines left out; the old file is kept as {aside.name}" if aside else None
    )


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
