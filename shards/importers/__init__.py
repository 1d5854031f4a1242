"""Importers: one small module a source, one pipeline for all (`common.py`).

A module has `HELP`, `add_arguments(parser)` and `source(args) -> source.Source`.
"""

from shards.importers import kuairand, microlens, recbole, shortvideo, table

IMPORTERS = {
    "microlens": microlens,
    "shortvideo": shortvideo,
    "kuairand": kuairand,
    "recbole": recbole,
    "table": table,
}

__all__ = ["IMPORTERS"]
