"""Recommendations as a file: written in parts, so that a job that was cut off goes on where it was.

While OUT is being made, the folder `.OUT.unfinished` beside it holds finished parts, and what they belong to.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import csv, parquet

from trainer import files
from trainer.errors import UserError
from trainer.serving.histories import STANDARD

KINDS = (".parquet", ".csv", ".jsonl")
PART_HISTORIES = 16_384  # histories in a part, at least
STATE = "state.json"


@dataclass(frozen=True)
class Counts:
    """Histories that were ranked, unknown ids skipped in them, and histories without a known one."""

    histories: int = 0
    unknown: int = 0
    empty: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.histories + other.histories, self.unknown + other.unknown, self.empty + other.empty
        )


@dataclass(frozen=True)
class Ranked:
    """The rows of some histories, and their counts."""

    rows: pa.Table
    counts: Counts


class Writer(Protocol):
    """Where tables of rows go."""

    def write_table(self, table: pa.Table) -> None:
        """Append the rows."""


Job = Callable[[int], Iterable[Ranked]]
"""What is to be written: called with how many histories are done, it yields those after them."""


def check_out(out: str) -> None:
    """Check a name of a file to be written.

    Raises:
        UserError: another ending, or it is there.
    """
    if out == STANDARD:
        return
    if Path(out).suffix not in KINDS:
        raise UserError(f"--out {out}: expected a name that ends in {', '.join(KINDS)}, or -")
    if Path(out).exists():
        raise UserError(f"--out {out} exists already")


def write(out: str, schema: pa.Schema, job: Job, identity: dict[str, Any] | None) -> Counts:
    """Write all that a job yields, and return its counts; `-`: JSON lines on standard output.

    identity: plain values on which the rows depend. A job of the same identity that was cut off before goes
    on after its last part; None: it cannot.

    Raises:
        UserError: the file cannot be written, or another job has left parts of it.
    """
    if out == STANDARD:
        counts, lines = Counts(), _JsonLines(sys.stdout)
        for ranked in job(0):
            lines.write_table(ranked.rows)
            counts += ranked.counts
        return counts
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            parts = _Parts(path.with_name(f".{path.name}.unfinished"), identity)
            for ranked in _grouped(job(parts.counts.histories)):
                parts.add(ranked)
            with files.replacing(path) as partial, _writer(partial, path.suffix, schema) as writer:
                for table in parts.tables():
                    writer.write_table(table)
            shutil.rmtree(parts.folder)
            return parts.counts
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from None


class _Parts:
    """The finished parts of a file that is being made."""

    def __init__(self, folder: Path, identity: dict[str, Any] | None) -> None:
        self.folder, self.identity = folder, identity
        self.counts, self.number = Counts(), 0
        if (folder / STATE).is_file() and identity is not None:
            state = files.read_json(folder / STATE)
            if state["identity"] != identity:
                raise UserError(
                    f"{folder} has parts of a job with other weights, input or options: remove it, or write"
                    " to another --out"
                )
            self.counts, self.number = Counts(**state["counts"]), state["parts"]
            print(f"continuing after {self.counts.histories} histories", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def add(self, ranked: Ranked) -> None:
        """Write a part, and then note it."""
        with files.replacing(self._path(self.number)) as partial:
            parquet.write_table(ranked.rows, partial)
        self.counts, self.number = self.counts + ranked.counts, self.number + 1
        state = {"identity": self.identity, "counts": asdict(self.counts), "parts": self.number}
        files.write_json(self.folder / STATE, state)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of all parts in order, some at a time."""
        for number in range(self.number):
            with parquet.ParquetFile(self._path(number)) as part:
                for batch in part.iter_batches():
                    yield pa.Table.from_batches([batch])

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"


class _JsonLines:
    """One object a row."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        """Append the rows."""
        for row in table.to_pylist():
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


def _grouped(ranked: Iterable[Ranked]) -> Iterator[Ranked]:
    """The same in parts of at least `PART_HISTORIES` histories, the last one shorter."""
    rows: list[pa.Table] = []
    counts = Counts()
    for each in ranked:
        rows.append(each.rows)
        counts += each.counts
        if counts.histories >= PART_HISTORIES:
            yield Ranked(pa.concat_tables(rows), counts)
            rows, counts = [], Counts()
    if rows:
        yield Ranked(pa.concat_tables(rows), counts)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within, no other process writes the same file."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"--out {path} is being written by another process") from None
    with held:
        check_out(str(path))  # another process may just have finished it
        yield
        Path(lock.lock_file).unlink()


@contextmanager
def _json_lines(path: str, schema: pa.Schema) -> Iterator[_JsonLines]:
    with open(path, "w", encoding="utf-8") as file:
        yield _JsonLines(file)


def _writer(path: Path, suffix: str, schema: pa.Schema) -> AbstractContextManager[Writer]:
    makers: dict[str, Any] = {".parquet": parquet.ParquetWriter, ".csv": csv.CSVWriter, ".jsonl": _json_lines}
    made: AbstractContextManager[Writer] = makers[suffix](str(path), schema)
    return made
