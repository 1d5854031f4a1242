"""The rank of each user's target, kept as a Parquet file: what a comparison of runs, user by user, needs.

A row for each user of the split, in the order of the index:

    user     original id            target   original id
    above    int32, videos that score above the target
    equal    int32, others that score the same
    history  int32, items of the user's history, those beyond the model's length as well
    count    int64, events of the target in the training part

The file's metadata say of what it is: `Facts`, each value as JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mealrec import metrics
from shards import Batch, Index
from trainer import distributed, files
from trainer.errors import UserError

GATHER_BATCHES = 64  # of a rank, between two collectives
ROWS = 1 << 18  # written at a time
NUMBERS = {"above": pa.int32(), "equal": pa.int32(), "history": pa.int32(), "count": pa.int64()}


@dataclass(frozen=True)
class Facts:
    """What the ranks are of.

    step: of the weights (of the first run's, where the scores of several are added); sampler_steps: of the
    reverse chains, 0 = all; models: how many were added; noise: standard deviations added to the features.
    """

    fingerprint: str
    split: str
    step: int
    mask_history: bool
    sampler_steps: int
    models: int = 1
    noise: float = 0.0


@dataclass(frozen=True)
class Ranks:
    """The content of such a file.

    user: original ids; above, equal, history: int32 [n]; count: int64 [n].
    """

    user: pa.ChunkedArray
    above: np.ndarray
    equal: np.ndarray
    history: np.ndarray
    count: np.ndarray
    facts: Facts

    def gains(self, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What each user adds to each metric, float64 [n]; the metrics are their means.

        chosen: bool [n], only these users; None: all.
        """
        columns = (self.above, self.equal) if chosen is None else (self.above[chosen], self.equal[chosen])
        above, equal = (torch.from_numpy(values.astype(np.int64)) for values in columns)
        return {name: gain.numpy() for name, gain in metrics.gains(above, equal).items()}


class Collector:
    """Brings the ranks of all processes to rank 0, which keeps 16 bytes for each user of the index."""

    def __init__(self, index: Index, device: torch.device, *, is_main: bool) -> None:
        self.index, self._device = index, device
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        # target, above, equal and history of each user; a target of 0: the user is not in the split.
        self._kept = np.zeros((4, index.users if is_main else 0), np.int32)

    def add(self, batch: Batch, greater: torch.Tensor, equal: torch.Tensor) -> None:
        """Take a batch as it was loaded and its users' ranks, int64 [B]; all ranks call it equally often."""
        length = torch.bincount(batch["history_row"], minlength=len(batch["weight"]))
        target = torch.where(batch["weight"] > 0, batch["target"], 0)
        known = torch.stack([batch["sample_id"], target, length])
        self._pending.append((known, torch.stack([greater, equal])))
        if len(self._pending) == GATHER_BATCHES:
            self._gather()

    def write(self, path: files.PathLike, facts: Facts) -> None:
        """Write the file, on rank 0; every rank calls this.

        Raises:
            UserError: it cannot be written.
        """
        self._gather()
        if not self._kept.size:
            return
        try:
            with files.replacing(path) as partial, open(partial, "wb") as file:
                self._write(file, facts)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from None

    def _gather(self) -> None:
        if not self._pending:
            return
        known, found = zip(*self._pending, strict=True)
        self._pending = []
        values = torch.cat([torch.cat(known, 1).to(self._device), torch.cat(found, 1)])
        for part in distributed.gather_to_main(values):
            user, target, history, above, equal = part.cpu().numpy()
            real = target > 0
            self._kept[:, user[real]] = np.stack([target, above, equal, history])[:, real]

    def _write(self, file: BinaryIO, facts: Facts) -> None:
        user_ids, item_ids = self.index.user_column(), self.index.item_column()
        counts = self.index.train_counts()
        schema = pa.schema(
            [("user", user_ids.type), ("target", item_ids.type), *NUMBERS.items()],
            metadata={name: json.dumps(value) for name, value in asdict(facts).items()},
        )
        with pq.ParquetWriter(file, schema) as writer:
            for start in range(0, self.index.users, ROWS):
                rows = slice(start, start + ROWS)
                chosen = self._kept[0, rows] > 0
                target, above, equal, history = self._kept[:, rows][:, chosen]
                columns = [
                    user_ids.slice(start, ROWS).filter(pa.array(chosen)),
                    item_ids.take(pa.array(target - 1)),
                    *(above, equal, history, counts[target]),
                ]
                writer.write_table(pa.table(columns, schema=schema))


def read(path: files.PathLike) -> Ranks:
    """Read such a file.

    Raises:
        UserError: it is missing, or none.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, table = file.schema_arrow, file.read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    metadata = {name.decode(): value for name, value in (schema.metadata or {}).items()}
    columns = {}
    for name, kind in {"user": None, **NUMBERS}.items():
        position = schema.get_field_index(name)
        if position < 0 or (kind is not None and schema.field(position).type != kind):
            found = "none" if position < 0 else schema.field(position).type
            raise UserError(f"{path}: column {name}: found {found}, expected {kind or 'original ids'}")
        if table.column(position).null_count:
            raise UserError(f"{path}: column {name}: found {table.column(position).null_count} empty values")
        columns[name] = table.column(position) if kind is None else table.column(position).to_numpy()
    try:
        facts = Facts(**{field.name: json.loads(metadata[field.name]) for field in fields(Facts)})
    except (KeyError, ValueError):
        raise UserError(f"{path} is no file of ranks: its metadata do not say of what they are") from None
    return Ranks(facts=facts, **columns)
