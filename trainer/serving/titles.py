"""Titles of videos, for people who read recommendations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import DataError
from shards.importers.source import open_rows
from trainer.errors import UserError
from trainer.serving.catalogue import Catalogue, Id

ITEM, TITLE = "item", "title"


def read_titles(file: str, catalogue: Catalogue) -> np.ndarray:
    """Return the titles of the catalogue's videos, text [I], None where the file has none.

    file: Parquet or CSV with the columns `item` (original ids) and `title`; other videos are left out.

    Raises:
        UserError, DataError: it cannot be read.
    """
    path = Path(file)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"--titles {file}: expected a name that ends in .csv or .parquet")
    if not path.is_file():
        raise UserError(f"--titles {file}: no such file")
    titles = np.full(len(catalogue) + 1, None, object)
    for item, title in _csv(path) if path.suffix == ".csv" else _parquet(path):
        titles[catalogue.number(item)] = title
    return titles[1:]


def _csv(path: Path) -> Iterator[tuple[Id, str]]:
    with open_rows(path) as rows:
        header = next(rows, [])
        _check_columns(header, path)
        item, title = header.index(ITEM), header.index(TITLE)
        for row in rows:
            if len(row) not in (0, len(header)):
                raise DataError(f"{path}:{rows.line_num}: found {len(row)} fields, expected {len(header)}")
            if row:
                yield row[item], row[title]


def _parquet(path: Path) -> Iterator[tuple[Id, str]]:
    try:
        with pq.ParquetFile(path) as parquet:
            _check_columns(parquet.schema_arrow.names, path)
            for batch in parquet.iter_batches(columns=[ITEM, TITLE]):
                titles = batch.column(TITLE).cast(pa.string()).to_pylist()
                yield from zip(batch.column(ITEM).to_pylist(), titles, strict=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from None


def _check_columns(names: list[str], path: Path) -> None:
    if names.count(ITEM) != 1 or names.count(TITLE) != 1:
        raise DataError(f"{path}: found the columns {', '.join(names)}, expected {ITEM} and {TITLE}")
