"""Importers: one small module per format, one pipeline for all (`pipeline.py`)."""

from __future__ import annotations

import argparse
from typing import Protocol

from shards.importers import kuairand, microlens, recbole, shortvideo, table
from shards.importers.source import Source


class Importer(Protocol):
    """What the module of a format has; its docstring is the description of its command."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this format."""

    def source(self, arguments: argparse.Namespace) -> Source:
        """The log that the arguments name."""


IMPORTERS: dict[str, Importer] = {
    "microlens": microlens,
    "shortvideo": shortvideo,
    "kuairand": kuairand,
    "recbole": recbole,
    "table": table,
}

__all__ = ["IMPORTERS", "Importer"]
