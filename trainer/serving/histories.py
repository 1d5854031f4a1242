"""Histories in files: Parquet, CSV or JSON lines, read one after the other.

    Parquet      columns `user` (integers or text) and `history` (a list of integers or of text)
    CSV          columns `user` and `history`: ids separated by spaces
    JSON lines   {"user": "ann", "history": [17, 4, 25]}

Ids are original ones, oldest first. Users are integers or text, the same in all of a file (CSV: text).
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import DataError
from shards.importers.source import bounded, open_rows, open_text
from trainer.errors import UserError
from trainer.serving.catalogue import Id

STANDARD = "-"  # the name of standard input and output
KINDS = (".parquet", ".csv", ".jsonl")
USER, HISTORY = "user", "history"
ROWS = 1024  # of a Parquet file, decoded at once


@dataclass(frozen=True)
class History:
    """What a user has seen, original ids, oldest first; place: where it was found, for messages."""

    user: Id
    items: list[Id]
    place: str


def read_histories(path: str) -> Iterator[History]:
    """Yield the histories of a file, or of JSON lines on standard input.

    Raises:
        UserError, DataError: no such file, another format, or the first row at fault.
    """
    if path == STANDARD:
        return _checked(_json_lines(Path("standard input")))
    file = Path(path)
    if file.suffix not in KINDS:
        raise UserError(f"--histories {path}: expected a name that ends in {', '.join(KINDS)}, or -")
    if not file.is_file():
        raise UserError(f"--histories {path}: no such file")
    read = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}[file.suffix]
    return _checked(read(file))


def peek(histories: Iterator[History]) -> tuple[type, Iterator[History]]:
    """Return the type of the users, int or str (str where there is none), and all of the histories."""
    head = list(itertools.islice(histories, 1))
    return (type(head[0].user) if head else str), itertools.chain(head, histories)


def _checked(histories: Iterator[History]) -> Iterator[History]:
    """The same, with users of one type, and of a size that files can hold."""
    kind: type | None = None
    for history in histories:
        kind = kind or type(history.user)
        if type(history.user) is not kind:
            expected = "an integer" if kind is int else "text"
            raise DataError(
                f"{history.place}: user: found {history.user!r}, expected {expected} as in the first"
            )
        if isinstance(history.user, int) and not -(2**63) <= history.user < 2**63:
            raise DataError(f"{history.place}: user: found {history.user}, expected an integer of 64 bits")
        yield history


def _parquet(file: Path) -> Iterator[History]:
    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            _check_schema(parquet.schema_arrow, file)
            for batch in parquet.iter_batches(ROWS, columns=[USER, HISTORY], use_threads=False):
                users, items = batch.column(USER).to_pylist(), batch.column(HISTORY).to_pylist()
                for user, history in zip(users, items, strict=True):
                    row += 1
                    if user is None or history is None or None in history:
                        column = USER if user is None else HISTORY
                        raise DataError(f"{file}: row {row}, column {column}: found null, expected an id")
                    yield History(user, history, f"{file}: row {row}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as Parquet after row {row}: {error}") from None


def _check_schema(schema: pa.Schema, file: Path) -> None:
    expected = {USER: (_is_id, "integers or text"), HISTORY: (_is_list, "lists of integers or of text")}
    for name, (fits, kind) in expected.items():
        if schema.names.count(name) != 1:
            raise DataError(
                f"{file}: found the columns {', '.join(schema.names)}, expected {USER} and {HISTORY}"
            )
        if not fits(schema.field(name).type):
            raise DataError(f"{file}: column {name}: found {schema.field(name).type}, expected {kind}")


def _is_id(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(lists) and _is_id(kind.value_type)


def _csv(file: Path) -> Iterator[History]:
    with open_rows(file) as rows:
        header = next(rows, [])
        for name in (USER, HISTORY):
            if header.count(name) != 1:
                raise DataError(
                    f"{file}: found the columns {', '.join(header)}, expected {USER} and {HISTORY}"
                )
        user, history = header.index(USER), header.index(HISTORY)
        for row in rows:
            if len(row) not in (0, len(header)):
                raise DataError(f"{file}:{rows.line_num}: found {len(row)} fields, expected {len(header)}")
            if row:
                yield History(row[user], [*row[history].split()], f"{file}:{rows.line_num}")


def _json_lines(file: Path) -> Iterator[History]:
    if str(file) == "standard input":
        yield from _parsed(bounded(sys.stdin, file), file)
        return
    with open_text(file) as lines:
        yield from _parsed(bounded(lines, file), file)


def _parsed(lines: Iterator[str], file: Path) -> Iterator[History]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not readable as JSON: {error}") from None
        if not isinstance(value, dict) or not {USER, HISTORY} <= set(value):
            raise DataError(f'{place}: found {line.strip():.60}, expected {{"user": .., "history": [..]}}')
        user, items = value[USER], value[HISTORY]
        if not _id(user):
            raise DataError(f"{place}: user: found {user!r:.60}, expected an integer or text")
        if not isinstance(items, list):
            raise DataError(f"{place}: history: found {items!r:.60}, expected a list of ids")
        for item in items:
            if not _id(item):
                raise DataError(f"{place}: history: found {item!r:.60}, expected an integer or text")
        yield History(user, items, place)


def _id(value: Any) -> bool:
    return type(value) in (int, str)
