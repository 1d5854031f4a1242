"""MicroLens 50K, 100K, 1M: `*_pairs.tsv` or `*_pairs.csv`.

tsv   no header, `user<TAB>item item ...`, oldest first, no times: the order stays, all times are 0
csv   header `user,item,timestamp`, times in ms
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

import duckdb

from shards.errors import DataError
from shards.importers.fields import identifier, literal, number_time
from shards.importers.source import Log, Source, bounded, existing, open_text, scan_text, sniff

HELP = "MicroLens: *_pairs.tsv or *_pairs.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the format has no options of its own."""


def source(arguments: argparse.Namespace) -> Source:
    """The log that the arguments name."""
    files = existing(arguments.source)
    if sniff(files[0]) == "\t":
        return Pairs(files)
    fields = {"user": identifier("user"), "item": identifier("item"), "time": number_time("timestamp")}
    return Log("microlens", files, fields, {})


class Pairs:
    """A log of lines `user<TAB>item item ...`."""

    name = "microlens"
    timed = has_parts = False

    def __init__(self, files: list[Path]):
        self.files = files
        self.id_types: dict[str, str] = {}
        self.options: dict[str, Any] = {}

    def relation(self) -> str:
        """See `Source.relation`."""
        files = "[" + ", ".join(literal(str(file)) for file in self.files) + "]"
        scan = scan_text(files, "\t", ("user", "items"), header=False)
        items = "CASE WHEN items IS NULL THEN [NULL] ELSE string_split(items, ' ') END"
        return (
            f"SELECT user, nullif(item, '') AS item, CAST(0 AS BIGINT) AS time, 0 AS part, true AS keep "
            f"FROM (SELECT user, unnest({items}) AS item FROM {scan})"
        )

    def locate(self, connection: duckdb.DuckDBPyConnection, reason: str) -> NoReturn:
        """See `Source.locate`."""
        for file in self.files:
            with open_text(file) as lines:
                for number, line in enumerate(bounded(lines, file), 1):
                    fields = line.rstrip("\r\n").split("\t")
                    if len(fields) != 2 or not fields[0]:
                        raise DataError(
                            f"{file}:{number}: found {line[:40]!r}, expected user<TAB>item item ..."
                        )
                    if not fields[1]:
                        raise DataError(
                            f"{file}:{number}: user {fields[0]}: found an empty sequence, expected items"
                        )
                    if "" in fields[1].split(" "):
                        raise DataError(
                            f"{file}:{number}: user {fields[0]}: found two spaces, expected one item each"
                        )
        raise DataError(f"{self.files[0]}: {reason}")
