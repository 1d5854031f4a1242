"""Where each user's target ranks, as an evaluation writes it: ranks-SPLIT.parquet of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mealrec import metrics
from shards import DataError

NUMBERS = ("above", "equal", "history", "count")


@dataclass(frozen=True)
class Ranks:
    """One row for each user of a split, ordered by user.

    user, target: original ids, int64 or text [U]; above, equal: videos that score above the target, and
    others that equal it; history: items in the history; count: training interactions of the target; all
    int64 [U].
    """

    user: np.ndarray
    target: np.ndarray
    above: np.ndarray
    equal: np.ndarray
    history: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of_run(cls, run: Path, split: str) -> Ranks | None:
        """Read what a run has of a split; None where nobody has written it.

        Raises:
            DataError: it is damaged, or another table.
        """
        path = file_of(run, split)
        if not path.exists():
            return None
        names = ["user", "target", *NUMBERS]
        try:
            with pq.ParquetFile(path) as parquet:
                missing = [name for name in names if name not in parquet.schema_arrow.names]
                if missing:
                    raise DataError(f"{path}: found no column {missing[0]}, expected {', '.join(names)}")
                table = parquet.read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not readable as Parquet: {error}") from None
        columns = {name: _column(table, name, path) for name in names}
        order = np.argsort(columns["user"], kind="stable")
        return cls(**{name: values[order] for name, values in columns.items()})

    def metrics(self) -> dict[str, np.ndarray]:
        """Return each user's hr@K, ndcg@K and mrr, float64 [U] by name."""
        above, equal = torch.from_numpy(self.above), torch.from_numpy(self.equal)
        return {name: values.numpy() for name, values in metrics.of_users(above, equal).items()}

    def same_users(self, other: Ranks) -> bool:
        """Whether both are of the same users, each with the same target."""
        return np.array_equal(self.user, other.user) and np.array_equal(self.target, other.target)


def file_of(run: Path, split: str) -> Path:
    """Where the ranks of a run lie."""
    return run / f"ranks-{split}.parquet"


def _column(table: pa.Table, name: str, path: Path) -> np.ndarray:
    column = table.column(name)
    if column.null_count:
        raise DataError(f"{path}: column {name}: found empty cells, expected none")
    if name not in NUMBERS:
        return np.asarray(column.to_pylist()) if len(column) else np.empty(0, np.int64)
    if not pa.types.is_integer(column.type):
        raise DataError(f"{path}: column {name}: found {column.type}, expected integers")
    values: np.ndarray = column.to_numpy().astype(np.int64)
    if len(values) and values.min() < 0:
        raise DataError(f"{path}: column {name}: found {values.min()}, expected 0 or more")
    return values
