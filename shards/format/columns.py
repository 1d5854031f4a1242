"""The Parquet columns of a data set: original ids, and training events per video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DataError

Ids = np.ndarray | list[str]
"""Original ids, an int64 array or a list of str."""


def read_column(file: Path, column: str, rows: int, kind: str) -> Ids:
    """As `read_arrow`, as an array or a list."""
    values = read_arrow(file, column, rows, kind)
    ids: Ids = values.to_numpy() if kind == "int64" else values.to_pylist()
    return ids


def read_arrow(file: Path, column: str, rows: int, kind: str) -> pa.ChunkedArray:
    """The values of a column that must have `rows` rows of `kind`, int64 or string.

    Arrow keeps text in a tenth of the memory of Python's strings.

    Raises:
        DataError: the file is not readable, or the column is another.
    """
    try:
        with pq.ParquetFile(file) as parquet:  # closed also where a fault is raised
            found = parquet.metadata.num_rows, parquet.schema_arrow.field(column).type
            if found != (rows, pa.int64() if kind == "int64" else pa.string()):
                shape = f"{found[0]} rows of {found[1]}"
                raise DataError(f"{file}: column {column}: found {shape}, expected {rows} rows of {kind}")
            values = parquet.read(columns=[column]).column(column)
        values.validate(full=True)
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{file}: column {column} not readable: {error}") from None
    if len(values) != rows or values.null_count:
        full = len(values) - values.null_count
        raise DataError(f"{file}: column {column}: found {full} values, expected {rows}")
    return values


def read_counts(file: Path, column: str, rows: int) -> np.ndarray:
    """int64 [rows + 1]: the values of a column, after a 0 for row 0 (padding)."""
    counts = read_column(file, column, rows, "int64")
    return np.concatenate([np.zeros(1, np.int64), counts])
