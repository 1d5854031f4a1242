"""Writes a data set, all or nothing.

Everything goes into `DIR.partial-<pid>` beside `DIR`, gets its `index.json` last, is synced to disk and then
renamed to `DIR`. A write that is killed leaves a `.partial-` directory, which nothing opens. The same content
gives the same bytes: tars carry no times and no owners.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DataError
from shards.format.columns import Ids
from shards.format.files import FileEntry
from shards.format.fingerprint import Fingerprint
from shards.format.index import INDEX_FILE, SCHEMA_VERSION, Features, FeatureShard, Index, SequenceShard
from shards.format.partial import PartialPath
from shards.format.records import BLOCK_FIELDS, Block, block_faults, video_faults
from shards.format.shard_writers import FeatureShardWriter, SequenceShardWriter, video_key
from shards.format.tars import HashingFile
from shards.format.totals import Totals

ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
BLOCK_USERS = 512
SHARD_BLOCKS = 16
FEATURE_SHARD_BYTES = 64 << 20


class DataSetWriter:
    """Writes users and videos in order, then `commit`; leaving the context without it removes everything.

    path       the directory to make; refused where it exists
    item_ids   [I] original ids, each once: element j is item j+1
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
        block_users: int = BLOCK_USERS,
        shard_blocks: int = SHARD_BLOCKS,
        feature_shard_bytes: int = FEATURE_SHARD_BYTES,
    ):
        self.path = Path(path)
        refuse_existing(self.path)
        self.name, self.split, self.features = name, dict(split), features
        self.item_ids, self.videos, self.user_type = item_ids, len(item_ids), user_type
        self.fingerprint = Fingerprint()
        self.fingerprint.ids("item_ids", item_ids)
        self.totals = Totals(self.videos)
        self._videos_with_features = self._last_item = 0
        self._json_files: dict[str, FileEntry] = {}
        self._partial = PartialPath(self.path)
        try:
            self._partial.make_folder()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._root = self._partial.path
        self._sequences = SequenceShardWriter(self._root, block_users=block_users, shard_blocks=shard_blocks)
        self._features = FeatureShardWriter(self._root, shard_bytes=feature_shard_bytes)
        self._user_schema = pa.schema([("id", _arrow_type(user_type))])
        self._users_sink = HashingFile(self._root / USERS_FILE)
        self._users_file = pq.ParquetWriter(pa.PythonFile(self._users_sink, "w"), self._user_schema)

    def __enter__(self) -> DataSetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close_files()
        finally:
            self._partial.discard()

    def add_users(self, ids: Ids, length: Any, item: Any, time: Any, boundary: Any) -> None:
        """The next users, any number: original `ids` [n] and the fields of `records.Block` (any integers).

        Raises:
            DataError: a field is not as `records.block_faults` requires.
        """
        if not len(ids):
            return
        first = self.totals.users
        user = np.arange(first, first + len(ids))
        columns = {"user": user, "length": length, "item": item, "time": time, "boundary": boundary}
        block = Block(**{name: np.asarray(columns[name]).astype(kind) for name, kind in BLOCK_FIELDS.items()})
        self._count_users(ids, block)
        self._sequences.add(block)

    def keep_users(self, ids: Ids, block: Block, file: Path, shard: SequenceShard) -> None:
        """The next users, whose tar is there already: `file`, in which `shard` says that `block` is.

        Raises:
            DataError: a field is not as `records.block_faults` requires.
        """
        self._count_users(ids, block)
        self._sequences.keep(file, shard)

    def _count_users(self, ids: Ids, block: Block) -> None:
        """Judge the next users, and add them to everything but the shards."""
        first = self.totals.users
        for fault in block_faults(block, f"users {first}..{first + len(ids) - 1}", first, self.videos):
            raise DataError(f"{self.path}: {fault}")
        self.fingerprint.ids("user_ids", ids)
        self.fingerprint.block(block)
        self._users_file.write_table(pa.table({"id": pa.array(ids, self._user_schema.field(0).type)}))
        self.totals.add(block)

    def add_video(self, item: int, frames: np.ndarray, count: int) -> None:
        """Features of item row `item` (ascending): `frames` [M, V], zero past `count` real frames.

        Raises:
            DataError: they are not as `records.video_faults` requires.
        """
        self._count_video(item, frames, count)
        self._features.add(item, frames, int(count))

    def keep_videos(
        self, videos: Iterable[tuple[int, np.ndarray, int]], file: Path, shard: FeatureShard
    ) -> None:
        """The next videos, whose tar is there already: `file`, in which `shard` says that `videos` are.

        Raises:
            DataError: one is not as `records.video_faults` requires.
        """
        for item, frames, count in videos:
            self._count_video(item, frames, count)
        self._features.keep(file, shard)

    def _count_video(self, item: int, frames: np.ndarray, count: int) -> None:
        """Judge the next video, and add it to everything but the shards."""
        features, record = self.features, video_key(item)
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
        self._videos_with_features += 1
        self.fingerprint.video(item, int(count), frames)

    def add_json(self, field: str, content: Any) -> None:
        """`field`.json beside the index, listed there under `field` with its checksum."""
        self._json_files[field] = self._write_json(self._root / f"{field}.json", content)

    def commit(self, source: Mapping[str, Any]) -> Index:
        """Finish the data set and return its index, loaded again.

        source: how the data set was made, drops in numbers.
        """
        self._sequences.finish()
        if not self.totals.users:
            raise DataError(f"{self.path}: no shards: not one user was written")
        self._close_files()
        content = self._index(dict(source))
        refuse_existing(self.path)
        with PartialPath(self._root / INDEX_FILE) as index:
            self._write_json(index.path, content)
            index.commit()
        self._partial.commit()
        return Index.load(self.path)

    def _close_files(self) -> None:
        self._sequences.close()
        self._features.close()
        if not self._users_sink.closed:
            self._users_file.close()
            self._users_sink.close()

    def _write_json(self, path: Path, content: Any) -> FileEntry:
        with HashingFile(path) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())
        return file.entry(self._root)

    def _write_items(self, kind: str) -> FileEntry:
        columns = {
            "id": pa.array(self.item_ids, _arrow_type(kind)),
            "train_count": self.totals.train_counts[1:],
        }
        with HashingFile(self._root / ITEMS_FILE) as file:
            pq.write_table(pa.table(columns), pa.PythonFile(file, "w"))
        return file.entry(self._root)

    def _index(self, source: dict[str, Any]) -> dict[str, Any]:
        item_type = "int64" if isinstance(self.item_ids, np.ndarray) else "string"
        features = None
        if self.features is not None and self._videos_with_features:
            features = asdict(replace(self.features, videos_with_features=self._videos_with_features))
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "users": self.totals.users,
            "videos": self.videos,
            "interactions": self.totals.interactions,
            "id_type": {"user": self.user_type, "item": item_type},
            "split": self.split,
            "counts": asdict(self.totals.counts),
            "features": features,
            "items": asdict(self._write_items(item_type)),
            "users_file": asdict(self._users_sink.entry(self._root)),
            "sequence_shards": [asdict(shard) for shard in self._sequences.shards],
            "feature_shards": [asdict(shard) for shard in self._features.shards],
            "fingerprint": self.fingerprint.hexdigest(),
            "source": source,
            **{field: asdict(entry) for field, entry in self._json_files.items()},
        }


def refuse_existing(path: Path) -> None:
    """Raise DataError where the output exists: nothing on disk is ever overwritten."""
    if path.exists():
        raise DataError(f"{path}: exists already; choose another --out or remove it first")


def _arrow_type(kind: str) -> pa.DataType:
    return pa.int64() if kind == "int64" else pa.string()
