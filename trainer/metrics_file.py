"""metrics.jsonl as records: what a run has logged, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.errors import UserError

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Return the records of a metrics file, without damaged lines such as a last one that was cut short.

    Raises:
        UserError: it is there and cannot be read.
    """
    return [record for line in _lines(path) if (record := _record(line)) is not None]


def damaged_lines(path: Path) -> int:
    """Return the number of damaged lines before the last one, which may be half written.

    Raises:
        UserError: it is there and cannot be read.
    """
    return sum(_record(line) is None for line in _lines(path)[:-1])


def _lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
