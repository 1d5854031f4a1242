"""RecBole: an atomic `.inter` file.

It is tab-separated under a typed header, `user_id:token item_id:token rating:float timestamp:float`. Without
a timestamp the rows are taken to be in order. Fractions of a second are cut off.
"""

from __future__ import annotations

import argparse

from shards.errors import DataError, nearest
from shards.importers.fields import at_least, identifier, number_time
from shards.importers.source import Log, Source, columns, existing

HELP = "RecBole: an .inter file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this format."""
    parser.add_argument("--min-rating", type=float, help="keep events of this rating or more only")


def source(arguments: argparse.Namespace) -> Source:
    """The log that the arguments name."""
    files = existing(arguments.source)
    names = [column.name for column in columns(files[0])]
    typed = {name.partition(":")[0]: name for name in names}
    untyped = [name for name in names if ":" not in name]
    if untyped:
        raise DataError(
            f"{files[0]}:1: found the column {untyped[0]!r}, expected a typed header such as user_id:token"
        )

    if len(typed) < len(names):
        plain = [name.partition(":")[0] for name in names]
        twice = next(name for name in plain if plain.count(name) > 1)
        raise DataError(
            f"{files[0]}:1: the column {twice!r} is there {plain.count(twice)} times, expected once"
        )

    def column(name: str) -> str:
        if name not in typed:
            raise DataError(f"{files[0]}: no column {name!r}; {nearest(name, typed)}")
        return typed[name]

    fields = {"user": identifier(column("user_id")), "item": identifier(column("item_id"))}
    if "timestamp" in typed:
        fields["time"] = number_time(typed["timestamp"])
    options = {}
    if arguments.min_rating is not None:
        fields["keep"] = at_least(column("rating"), arguments.min_rating)
        options["min_rating"] = arguments.min_rating
    return Log("recbole", files, fields, options)
