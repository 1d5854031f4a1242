"""Tables of one's own: Parquet or delimited text with a header.

Columns are named by `--columns user=..,item=..,time=..`. Optional: `split=..` (train, valid or test, made
beforehand; goes with `--split given`) and `rating=..` (with `--min-rating`). Times are numbers of any unit,
kept as they are, or texts such as `2022-04-10 08:59:09` and Parquet timestamps, kept in ms. Without `time`
the rows are taken to be in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shards.errors import DataError, nearest
from shards.importers.fields import Field, at_least, identifier, is_iso, iso_time, number_time, part
from shards.importers.source import Log, Source, columns, existing, first_row, is_parquet, position

HELP = "Parquet or CSV tables"
ROLES = ("user", "item", "time", "split", "rating")
DEFAULT = "user=user_id,item=item_id,time=timestamp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this format."""
    parser.add_argument(
        "--columns",
        default=DEFAULT,
        metavar="ROLE=NAME,...",
        help="which column is which: user, item; optional: time, split, rating (default %(default)s)",
    )
    parser.add_argument(
        "--min-rating", type=float, help="keep events of this rating or more only (needs rating=..)"
    )


def source(arguments: argparse.Namespace) -> Source:
    """The log that the arguments name."""
    named = parse_columns(arguments.columns)
    files = existing(arguments.source)
    if is_parquet(files[0]) != all(is_parquet(file) for file in files):
        raise DataError(f"{files[0]}: found Parquet and text together, expected one kind")
    fields = {"user": identifier(named["user"]), "item": identifier(named["item"])}
    if "time" in named:
        fields["time"] = time_field(files[0], named["time"])
    if "split" in named:
        fields["part"] = part(named["split"])
    if arguments.min_rating is not None:
        if "rating" not in named:
            raise DataError("--min-rating: --columns names no rating column (rating=..)")
        fields["keep"] = at_least(named["rating"], arguments.min_rating)
    options: dict[str, Any] = {"columns": named}
    if arguments.min_rating is not None:
        options["min_rating"] = arguments.min_rating
    return Log("table", files, fields, options)


def parse_columns(text: str) -> dict[str, str]:
    """`user=a,item=b` as a dict. DataError where a role is unknown or user or item missing."""
    named: dict[str, str] = {}
    for pair in text.split(","):
        role, _, column = pair.partition("=")
        role = role.strip()
        if role not in ROLES:
            raise DataError(f"--columns: found {pair!r}, expected ROLE=NAME; {nearest(role, ROLES)}")
        if not column.strip():
            raise DataError(f"--columns: {role} names no column")
        named[role] = column.strip()
    for role in ("user", "item"):
        if role not in named:
            raise DataError(f"--columns: {role}=.. is missing")
    return named


def time_field(file: Path, column: str) -> Field:
    """Numbers, or dates where the first event (of Parquet: the type) has one."""
    if is_parquet(file):
        there = columns(file)
        dated = there[position(column, there, file)].kind.startswith(("TIMESTAMP", "DATE"))
    else:
        dated = is_iso(first_row(file).get(column, ""))
    return iso_time(column) if dated else number_time(column)
