"""Writes a data set, all or nothing.

Everything goes into `DIR.partial-<pid>` beside `DIR`, is synced to disk, gets its `index.json` last, and is
then renamed to `DIR`. A write that is killed leaves a `.partial-` directory without an index, which nothing
opens. The same content gives the same bytes: tars carry no times and no owners.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DataError
from shards.format import index as schema
from shards.format.fingerprint import Fingerprint
from shards.format.index import Features, Index
from shards.format.records import BLOCK_FIELDS, Block, block_faults, video_faults
from shards.format.tars import HashingFile, TarSet

Ids = np.ndarray | Sequence[str]


class DataSetWriter:
    """Context manager: `add_users` and `add_video` in order, then `commit`; leaving without `commit` removes
    all.

    path       the directory to make; refused where it exists
    item_ids   [I] original ids, ascending: element j is item j+1
    user_type  "int64" or "string"
    split      {"kind": leave-one-out | time | given | none, ...}
    features   shape and dtype of the frames, None without features (its videos_with_features is counted here)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        item_ids: Ids,
        user_type: str,
        split: Mapping[str, Any],
        features: Features | None = None,
        block_users: int = schema.BLOCK_USERS,
        shard_blocks: int = schema.SHARD_BLOCKS,
        feature_shard_bytes: int = schema.FEATURE_SHARD_BYTES,
    ):
        self.path = Path(path)
        refuse_existing(self.path)
        self.root = self.path.parent / f"{self.path.name}.partial-{os.getpid()}"
        self.name, self.split, self.features = name, dict(split), features
        self.item_ids, self.videos = item_ids, len(item_ids)
        self.block_users, self.shard_blocks, self.feature_shard_bytes = (
            block_users,
            shard_blocks,
            feature_shard_bytes,
        )
        self.fingerprint = Fingerprint()
        self.fingerprint.ids("item_ids", item_ids)
        self.train_counts = np.zeros(self.videos + 1, np.int64)
        self.counts = dict.fromkeys(schema.COUNTS, 0)
        self.users = self.interactions = self.with_features = 0
        self._last_item = 0
        self._pending: list[Block] = []
        self._pending_users = 0
        self._extra: dict[str, dict[str, Any]] = {}
        if self.root.exists():  # of a dead process that had our number
            shutil.rmtree(self.root)
        try:
            self.root.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._sequences = TarSet(self.root, "sequences")
        self._features = TarSet(self.root, "features")
        self._user_schema = pa.schema([("id", pa.int64() if user_type == "int64" else pa.string())])
        self.user_type = user_type
        self._users_sink = HashingFile(self.root / schema.USERS_FILE)
        self._users_file = pq.ParquetWriter(pa.PythonFile(self._users_sink, "w"), self._user_schema)

    def __enter__(self) -> DataSetWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.root.exists():
            self._sequences.finish()
            self._features.finish()
            if not self._users_sink.closed:
                self._users_file.close()
                self._users_sink.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def add_users(self, ids: Ids, length: Any, item: Any, time: Any, boundary: Any) -> None:
        """The next users, any number: original `ids` [n] and the fields of `records.Block` (any integer
        dtype)."""
        if not len(ids):
            return
        user = np.arange(self.users, self.users + len(ids))
        fields = {"user": user, "length": length, "item": item, "time": time, "boundary": boundary}
        block = Block(**{name: np.asarray(fields[name]).astype(kind) for name, kind in BLOCK_FIELDS.items()})
        for fault in block_faults(
            block, f"users {self.users}..{self.users + len(ids) - 1}", self.users, self.videos
        ):
            raise DataError(f"{self.path}: {fault}")
        self.fingerprint.ids("user_ids", ids)
        self.fingerprint.block(block)
        self._users_file.write_table(pa.table({"id": pa.array(ids, self._user_schema.field(0).type)}))
        self._count(block)
        self.users += len(ids)
        self._pending.append(block)
        self._pending_users += len(ids)
        if self._pending_users >= self.block_users:
            self._flush(last=False)

    def add_video(self, item: int, frames: np.ndarray, count: int) -> None:
        """Features of item row `item` (ascending): `frames` [M, V] zero past `count` real frames, 1 <= count
        <= M."""
        features = self.features
        record = f"video-{item:08d}"
        if features is None:
            raise DataError(f"{self.path}: record {record}: the writer was opened without features")
        if not self._last_item < item <= self.videos:
            raise DataError(
                f"{self.path}: record {record}: expected an item row in {self._last_item + 1}..{self.videos}"
            )
        for fault in video_faults(
            frames, int(count), record, (features.frames, features.width), features.dtype
        ):
            raise DataError(f"{self.path}: {fault}")
        self._last_item = item
        shards = self._features
        if shards.tar is not None and shards.payload + frames.nbytes > self.feature_shard_bytes:
            shards.finish()
        if self._features.tar is None:
            self._features.start(videos=0, first_item=item)
        self._features.write({"__key__": record, "frames.npy": frames, "count.cls": int(count)})
        self._features.entry["videos"] += 1
        self.fingerprint.video(item, int(count), frames)
        self.with_features += 1

    def add_json(self, field: str, content: Any) -> None:
        """`field`.json beside the index, listed there under `field` with its checksum."""
        with HashingFile(self.root / f"{field}.json") as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())
        self._extra[field] = file.listed(self.root)

    def commit(self, source: Mapping[str, Any]) -> Index:
        """Finish: `source` says how the data set was made, drops in numbers. Returns the index, loaded
        anew."""
        self._flush(last=True)
        if not self.users:
            raise DataError(f"{self.path}: no shards: not one user was written")
        self._sequences.finish()
        self._features.finish()
        self._users_file.close()
        self._users_sink.close()
        index = self._index(dict(source))
        refuse_existing(self.path)
        with HashingFile(self.root / f"{schema.INDEX_FILE}.new") as file:
            file.write((json.dumps(index, indent=1) + "\n").encode())
        os.replace(file.path, self.root / schema.INDEX_FILE)
        _sync_directories(self.root)
        os.rename(self.root, self.path)
        _sync_directory(self.path.parent)
        return Index.load(self.path)

    def _count(self, block: Block) -> None:
        train_end = block.boundary[:, 0].astype(np.int64)
        place = np.arange(len(block.item)) - np.repeat(block.starts[:-1], block.length)
        self.train_counts += np.bincount(
            block.item[place < np.repeat(train_end, block.length)], minlength=self.videos + 1
        )
        valid, test = schema.evaluated(block.length, block.boundary)
        self.counts["train_events"] += int(train_end.sum())
        self.counts["valid_users"] += int(valid.sum())
        self.counts["test_users"] += int(test.sum())
        self.counts["short_users"] += int((block.length < schema.MIN_EVALUATED).sum())
        self.interactions += len(block.item)

    def _flush(self, last: bool) -> None:
        """Write the pending users in whole blocks; at the end also the short one."""
        if not self._pending:
            return
        pending = Block.concatenate(self._pending)
        users = len(pending.user)
        whole = users if last else users - users % self.block_users
        for start in range(0, whole, self.block_users):
            self._write_block(pending.rows(start, min(start + self.block_users, whole)))
        rest = pending.rows(whole, users)
        self._pending, self._pending_users = ([rest] if users > whole else []), users - whole

    def _write_block(self, block: Block) -> None:
        shards = self._sequences
        if shards.tar is not None and shards.entry["blocks"] == self.shard_blocks:
            shards.finish()
        if shards.tar is None:
            shards.start(users=0, first_user=int(block.user[0]), train_lengths={}, blocks=0)
        number = int(block.user[0]) // self.block_users
        fields = {f"{name}.npy": np.ascontiguousarray(getattr(block, name)) for name in BLOCK_FIELDS}
        shards.write({"__key__": f"block-{number:08d}", **fields})
        entry = shards.entry
        entry["users"] += len(block.user)
        entry["blocks"] += 1
        for length, count in zip(*np.unique(block.boundary[:, 0], return_counts=True), strict=True):
            entry["train_lengths"][int(length)] = entry["train_lengths"].get(int(length), 0) + int(count)

    def _index(self, source: dict[str, Any]) -> dict[str, Any]:
        item_type = "int64" if isinstance(self.item_ids, np.ndarray) else "string"
        ids = pa.array(self.item_ids, pa.int64() if item_type == "int64" else pa.string())
        with HashingFile(self.root / schema.ITEMS_FILE) as file:
            pq.write_table(
                pa.table({"id": ids, "train_count": self.train_counts[1:]}), pa.PythonFile(file, "w")
            )
        sequence_shards = [
            {**entry, "train_lengths": [list(pair) for pair in sorted(entry["train_lengths"].items())]}
            for entry in (
                {k: v for k, v in entry.items() if k != "blocks"} for entry in self._sequences.entries
            )
        ]
        features = None
        if self.features is not None and self.with_features:
            features = {**asdict(self.features), "videos_with_features": self.with_features}
        return {
            "schema_version": schema.SCHEMA_VERSION,
            "name": self.name,
            "users": self.users,
            "videos": self.videos,
            "interactions": self.interactions,
            "id_type": {"user": self.user_type, "item": item_type},
            "split": self.split,
            "counts": self.counts,
            "features": features,
            "items": file.listed(self.root),
            "users_file": self._users_sink.listed(self.root),
            "sequence_shards": sequence_shards,
            "feature_shards": self._features.entries,
            "fingerprint": self.fingerprint.hexdigest(),
            "source": source,
            **self._extra,
        }


def refuse_existing(path: Path) -> None:
    """DataError where the output exists: nothing on disk is ever overwritten."""
    if path.exists():
        raise DataError(f"{path}: exists already; choose another --out or remove it first")


def _sync_directories(root: Path) -> None:
    for directory in [root, *_directories(root)]:
        _sync_directory(directory)


def _directories(root: Path) -> Iterable[Path]:
    return (path for path in root.rglob("*") if path.is_dir())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
