"""Where a log comes from: delimited text (gzip or plain) or Parquet, as one relation for DuckDB."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DataError, nearest
from shards.importers.fields import Field, literal, quote

if TYPE_CHECKING:
    from _csv import Reader as CsvRows

DELIMITERS = ("\t", ",", ";", "|")
ROLES = ("user", "item", "time", "part", "keep")
LONGEST_LINE = 1 << 24


class Source(Protocol):
    """A log that can be imported."""

    name: str
    files: list[Path]
    timed: bool
    """Whether events have times; without, rows are in order already and repeats are not duplicates."""
    has_parts: bool
    """Whether events say which part of a split they belong to."""
    id_types: dict[str, str]
    """`user` or `item` -> int64 or string, where the source fixes it; by the values otherwise."""
    options: dict[str, Any]

    def relation(self) -> str:
        """A SELECT of the columns in `ROLES`, in the order of the files and their rows.

        `user` and `item` are text, `time` BIGINT, `part` 0, 1, 2 for train, valid, test (both 0 where the
        source has none), `keep` whether the event is positive. NULL marks a malformed value.
        """

    def locate(self, connection: duckdb.DuckDBPyConnection, reason: str) -> NoReturn:
        """Raise the DataError of the first malformed row; `reason` is for where it cannot be found again."""


class Log:
    """A table with one event per row.

    fields: `user` and `item`, and where the source has them `time`, `part` and `keep`.
    """

    def __init__(self, name: str, files: Sequence[Path], fields: dict[str, Field], options: dict[str, Any]):
        self.name, self.files, self.fields, self.options = name, list(files), fields, options
        self.timed, self.has_parts = "time" in fields, "part" in fields
        self.parquet = is_parquet(self.files[0])
        self.id_types: dict[str, str] = {}
        self.columns = columns(self.files[0])
        self.position = {
            field.column: position(field.column, self.columns, self.files[0]) for field in fields.values()
        }
        for file in self.files[1:]:
            if [column.name for column in columns(file)] != [column.name for column in self.columns]:
                raise DataError(f"{file}: its columns differ from those of {self.files[0]}")
        if self.parquet:
            for role in ("user", "item"):
                text = self.columns[self.position[fields[role].column]].kind in ("VARCHAR", "BLOB")
                self.id_types[role] = "string" if text else "int64"

    def relation(self) -> str:
        """See `Source.relation`."""
        value = {"time": "CAST(0 AS BIGINT)", "part": "0", "keep": "true"}
        value |= {role: field.sql(self._sql_name(field)) for role, field in self.fields.items()}
        return f"SELECT {', '.join(f'{value[role]} AS {quote(role)}' for role in ROLES)} FROM {self._scan()}"

    def locate(self, connection: duckdb.DuckDBPyConnection, reason: str) -> NoReturn:
        """See `Source.locate`."""
        if self.parquet:
            with suppress(duckdb.Error):  # of a damaged file: `reason` says what is wrong
                self._locate_row(connection)
        else:
            self._locate_line()
        raise DataError(f"{self.files[0]}: {reason}")

    def _scan(self) -> str:
        files = "[" + ", ".join(literal(str(file)) for file in self.files) + "]"
        if self.parquet:
            return f"read_parquet({files}, file_row_number = true, filename = true)"
        names = [column.sql_name for column in self.columns]
        return scan_text(files, sniff(self.files[0]), names, header=True)

    def _sql_name(self, field: Field) -> str:
        return quote(self.columns[self.position[field.column]].sql_name)

    def _locate_row(self, connection: duckdb.DuckDBPyConnection) -> None:
        for field in self.fields.values():
            name = self._sql_name(field)
            query = f"SELECT filename, file_row_number, {name} FROM {self._scan()}"
            for row in connection.execute(f"{query} WHERE ({field.sql(name)}) IS NULL LIMIT 1").fetchall():
                location = f"{row[0]}: row {row[1] + 1}, column {field.column}"
                raise DataError(f"{location}: found {row[2]!r:.60}, expected {field.expected}")

    def _locate_line(self) -> None:
        for file in self.files:
            with open_rows(file) as rows:
                next(rows, None)
                for row in rows:
                    if not row:
                        continue
                    location = f"{file}:{rows.line_num}"
                    if len(row) != len(self.columns):
                        raise DataError(f"{location}: found {len(row)} fields, expected {len(self.columns)}")
                    for field in self.fields.values():
                        text = row[self.position[field.column]]
                        if not field.valid(text):
                            column = f"{location}: column {field.column}"
                            raise DataError(f"{column}: found {text!r:.60}, expected {field.expected}")


def scan_text(files: str, delimiter: str, names: Sequence[str], header: bool) -> str:
    """DuckDB's reader of delimited text, every column as text, strict. `files` is a SQL list."""
    kinds = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    limits = f"strict_mode = true, max_line_size = {LONGEST_LINE}"
    return (
        f"read_csv({files}, delim = {literal(delimiter)}, header = {str(header).lower()}, "
        f"auto_detect = false, columns = {{{kinds}}}, quote = '\"', escape = '\"', {limits})"
    )


class Column(NamedTuple):
    """A column of a file: its name there, its type (of text: VARCHAR), and its name in SQL.

    DuckDB does not tell names apart that differ only in case, and has no empty ones.
    """

    name: str
    kind: str
    sql_name: str


def columns(file: Path) -> list[Column]:
    """The columns of a Parquet or delimited file.

    Raises:
        DataError: the file has none.
    """
    if is_parquet(file):
        try:
            names = pq.read_schema(file).names
            rows = duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(file))})").fetchall()
            return [Column(name, row[1], row[0]) for name, row in zip(names, rows, strict=True)]
        except (duckdb.Error, pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{file}: not readable as Parquet: {error}") from None
    with open_rows(file) as lines:
        return [Column(name, "VARCHAR", f"column{at}") for at, name in enumerate(next(lines, []))]


def position(name: str, columns: Sequence[Column], file: Path) -> int:
    """Which of a file's columns has the name. DataError unless it is one."""
    names = [column.name for column in columns]
    if name not in names:
        raise DataError(f"{file}: no column {name!r}; {nearest(name, names)}")
    if names.count(name) > 1:
        raise DataError(f"{file}: the column {name!r} is there {names.count(name)} times, expected once")
    return names.index(name)


def first_row(file: Path) -> dict[str, str]:
    """The first event of a delimited file by column name; empty where there is none."""
    with open_rows(file) as rows:
        return dict(zip(next(rows, []), next(rows, []), strict=False))


def sniff(file: Path) -> str:
    """The delimiter of a file's first line."""
    line = first_line(file)
    return max(DELIMITERS, key=line.count)


def first_line(file: Path) -> str:
    """The first line without its end. DataError where the file is missing, empty or not text."""
    with open_text(file) as lines:
        line = next(bounded(lines, file), "").rstrip("\r\n")
    if not line:
        raise DataError(f"{file}: empty, expected a log")
    return line


def is_parquet(file: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return file.suffix.lower() in (".parquet", ".pq")


def existing(paths: Sequence[str | Path]) -> list[Path]:
    """The paths of SOURCE, each a file."""
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: {'a folder, expected a file' if file.is_dir() else 'no such file'}")
        if not is_parquet(file):
            first_line(file)
    return files


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """Lines of a text file, gzip or plain; faults of decompression are DataErrors."""
    try:
        with open(file, "rb") as head:
            packed = head.read(2) == b"\x1f\x8b"
        opener = gzip.open if packed else open
        lines: TextIO = opener(file, "rt", encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise DataError(f"{file}: not readable: {error.strerror}") from None
    with lines:
        try:
            yield lines
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{file}: broken gzip: {error}") from None


@contextmanager
def open_rows(file: Path) -> Iterator[CsvRows]:
    """The rows of a delimited file; what is not one is a DataError that names its line."""
    csv.field_size_limit(LONGEST_LINE)
    delimiter = sniff(file)
    with open_text(file) as lines:
        rows = csv.reader(bounded(lines, file), delimiter=delimiter)
        try:
            yield rows
        except csv.Error as error:
            raise DataError(f"{file}:{rows.line_num}: not readable as delimited text: {error}") from None


def bounded(lines: TextIO, file: Path) -> Iterator[str]:
    """The lines of a text file. DataError at one that is too long, before it is read whole."""
    number = 1
    while line := lines.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{file}:{number}: found a line of more than {LONGEST_LINE} characters")
        yield line
        number += 1
