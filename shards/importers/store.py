"""The log as DuckDB tables on disk: judged, ids numbered, events sorted, exact duplicates dropped.

Everything here keeps to DuckDB's memory limit; what does not fit goes to the scratch directory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from shards.errors import DataError
from shards.format.columns import Ids
from shards.importers.fields import literal
from shards.importers.source import ROLES, Source


class Events(NamedTuple):
    """A stretch of the sorted log, int arrays of one length: numbers of users and items, times, parts."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    part: np.ndarray

    def where(self, rows: np.ndarray | slice) -> Events:
        """Some of the events."""
        return Events(*(column[rows] for column in self))


class Store:
    """The sorted log of `source`.

    events  how many
    sizes   distinct ids by role, user and item
    types   int64 or string by role
    drops   what was left out so far, in numbers
    """

    def __init__(self, source: Source, memory: str, folder: Path, bar: tqdm[Any]):
        self.source, self.folder, self.bar = source, folder, bar
        self.sizes: dict[str, int] = {}
        self.types: dict[str, str] = {}
        self.drops: dict[str, int] = {}
        self.events = 0
        self.connection = duckdb.connect(str(folder / "log.duckdb"))
        try:
            self.connection.execute(f"SET memory_limit = {literal(memory)}")
        except duckdb.Error:
            self.close()
            raise DataError(f"--memory: found {memory!r}, expected a size such as 2GB") from None
        self.connection.execute(f"SET temp_directory = {literal(str(folder))}")
        self.connection.execute("SET preserve_insertion_order = true; SET enable_progress_bar = false")

    def close(self) -> None:
        """Close the connection to DuckDB."""
        self.connection.close()

    def load(self) -> None:
        """Read, number and sort. DataError at the first malformed row, or where no event is positive."""
        self._read()
        self._number("user")
        self._number("item")
        self._sort()

    def start_stage(self, name: str, total: int) -> None:
        """Show a new stage of `total` units of work in the progress bar."""
        self.bar.reset(total)
        self.bar.set_description(name)

    def batches(self, stage: str) -> Iterator[Events]:
        """The sorted log in batches of whole users."""
        self.start_stage(stage, self.events)
        cursor = self.connection.cursor()  # its own: it stays open while other statements run
        rest: Events | None = None
        for batch in _arrow(cursor, "SELECT u, i, t, p FROM log"):
            events = Events(*(column.to_numpy(zero_copy_only=False) for column in batch.columns))
            self.bar.update(len(events.user))
            if rest is not None:
                events = Events(*(np.concatenate(pair) for pair in zip(rest, events, strict=True)))
            cut = int(np.searchsorted(events.user, events.user[-1])) if len(events.user) else 0
            rest = events.where(slice(cut, None))
            if cut:
                yield events.where(slice(cut))
        if rest is not None and len(rest.user):
            yield rest

    def ids(self, role: str) -> pa.Array:
        """Original ids by their numbers."""
        cursor = self.connection.cursor()
        table = _arrow(cursor, f"SELECT id FROM {role}s ORDER BY rowid").read_all()
        return table.column("id").combine_chunks()

    def query(self, sql: str) -> tuple[Any, ...]:
        """The first row of a statement; a fault that DuckDB meets in the source is located there."""
        try:  # fetch all: an unfinished result would block the next statement
            rows = self.connection.execute(sql).fetchall()
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            if str(self.folder) in reason or "No space left" in reason:  # of the scratch, not of the source
                raise DataError(f"{self.folder}: {reason}") from None
            self.source.locate(self.connection, reason)
        return tuple(rows[0]) if rows else ()

    def _read(self) -> None:
        """Judge all rows, then store the positive ones as `raw`."""
        self.bar.set_description("reading")
        relation = self.source.relation()
        fault = " OR ".join(f"{role} IS NULL" for role in ROLES)
        count = f"SELECT count(*), count(*) FILTER ({fault}), count(*) FILTER (NOT keep) FROM ({relation})"
        rows, faults, dropped = self.query(count)
        if faults:
            self.source.locate(self.connection, f"{faults} malformed rows")
        if rows == dropped:
            events = f"{rows} events" + (", not one of them positive" if rows else "")
            raise DataError(f"{self.source.files[0]}: found {events}, expected at least one")
        self.drops |= {"events_read": rows, "events_not_positive": dropped}
        self.query(f"CREATE TABLE raw AS SELECT user, item, time, part FROM ({relation}) WHERE keep")

    def _number(self, role: str) -> None:
        """Table `role`s: `text` and `id` (of its own type) of each distinct id; the rowid is its number."""
        self.bar.set_description(f"numbering {role}s")
        kind = self.source.id_types.get(role)
        if kind is None:  # text: integers where all of them are, written plainly
            every = self.query(f"SELECT bool_and({is_integer(role)}) FROM (SELECT DISTINCT {role} FROM raw)")[
                0
            ]
            kind = "int64" if every else "string"
        self.types[role] = kind
        cast = f"CAST({role} AS BIGINT)" if kind == "int64" else role
        self.query(
            f"CREATE TABLE {role}s AS SELECT DISTINCT {role} AS text, {cast} AS id FROM raw ORDER BY id"
        )
        self.sizes[role] = self.query(f"SELECT count(*) FROM {role}s")[0]

    def _sort(self) -> None:
        """Table `log`: u, i, t, p by user and time, ties in the order of the source, no exact duplicates."""
        self.bar.set_description("sorting")
        self.query(
            "CREATE TABLE numbered AS SELECT CAST(users.rowid AS INTEGER) AS u, "
            "CAST(items.rowid AS INTEGER) AS i, raw.time AS t, "
            "CAST(raw.part AS TINYINT) AS p, raw.rowid AS n "
            "FROM raw JOIN users ON raw.user = users.text JOIN items ON raw.item = items.text"
        )
        self.query("DROP TABLE raw")
        events = self.query("SELECT count(*) FROM numbered")[0]
        distinct = (
            "(SELECT u, i, t, p, min(n) AS n FROM numbered GROUP BY u, i, t, p)"
            if self.source.timed
            else "numbered"
        )
        order = "u, t, p, n" if self.source.timed else "u, n"
        self.query(f"CREATE TABLE log AS SELECT u, i, t, p FROM {distinct} ORDER BY {order}")
        self.query("DROP TABLE numbered")
        self.events = self.query("SELECT count(*) FROM log")[0]
        self.drops["exact_duplicates"] = events - self.events


@contextmanager
def sorted_log(source: Source, *, memory: str, out: Path, spill: Path | None) -> Iterator[Store]:
    """The sorted log of `source`, for the data set `out`; its folder, in `spill`, goes when the context ends.

    Raises:
        DataError: at the first malformed row; too little memory or disk, also for what is done with the log.
    """
    spill = spill or out.absolute().parent
    try:
        spill.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.import-", dir=spill)
    except OSError as error:
        raise DataError(f"{spill}: cannot be written: {error.strerror}") from None
    with scratch as folder, tqdm(disable=None, unit=" events", unit_scale=True) as bar:
        try:
            with closing(Store(source, memory, Path(folder), bar)) as store:
                store.load()
                yield store
        except duckdb.OutOfMemoryException:
            raise DataError(f"--memory: {memory} is not enough for this log; give more") from None
        except duckdb.Error as error:
            raise DataError(f"{folder}: {str(error).splitlines()[0]}") from None


def is_integer(text: str) -> str:
    """The SQL condition that a text is an integer of 64 bits, written plainly."""
    return f"(regexp_full_match({text}, '0|-?[1-9][0-9]*') AND TRY_CAST({text} AS BIGINT) IS NOT NULL)"


def plain(ids: pa.Array) -> Ids:
    """Ids as the writer takes them."""
    values: Ids = ids.to_numpy() if ids.type == pa.int64() else ids.to_pylist()
    return values


def _arrow(cursor: duckdb.DuckDBPyConnection, query: str) -> pa.RecordBatchReader:
    """The rows in batches; the reader lives as long as the cursor is held."""
    return pa.RecordBatchReader.from_stream(cursor.sql(query))
