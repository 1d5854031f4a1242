"""The index of a data set: what `index.json` says, as dataclasses, loaded with every fault named.

A data set is a directory (schema version 1):

    index.json                        written last; the only file that has to be opened to know the rest
    items.parquet                     row j is item j+1: `id` (int64 or string, the original), `train_count`
                                      int64
    users.parquet                     row u is sample_id u: `id` (the original)
    sequences/sequences-000000.tar    samples = blocks of up to 512 users (see `records.Block`)
    features/features-000000.tar      samples = one video each: `frames.npy` [M, V], `count.cls`; absent
                                      without features
    oracle.json                       synthetic worlds only
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DataError

SCHEMA_VERSION = 1
INDEX_FILE = "index.json"
ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
BLOCK_USERS = 512
SHARD_BLOCKS = 16
FEATURE_SHARD_BYTES = 64 << 20
MIN_EVALUATED = 3
"""Users with fewer items are kept for training only."""
SPLIT_KINDS = ("leave-one-out", "time", "given", "none")
COUNTS = ("train_events", "valid_users", "test_users", "short_users")
ID_TYPES = ("int64", "string")
FEATURE_DTYPES = ("float16", "float32")


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL (`s3://`, `https://`, ...) or a `pipe:` command and not a directory of this
    host."""
    text = str(path)
    return text.startswith("pipe:") or "://" in text


@dataclass(frozen=True)
class FileEntry:
    """A file of the data set: path relative to its root, size in bytes, sha256 in hexadecimal."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SequenceShard(FileEntry):
    """A tar of user blocks. `train_lengths` is the histogram of training lengths: ((length, users), ...)
    ascending."""

    users: int
    first_user: int
    train_lengths: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class FeatureShard(FileEntry):
    """A tar of `videos` feature records; `first_item` is the item row (from 1) of its first record."""

    videos: int
    first_item: int


@dataclass(frozen=True)
class Features:
    """Shape of the frame features: every record is `[frames, width]` of `dtype`, zero past its frame
    count."""

    frames: int
    width: int
    dtype: str
    videos_with_features: int = 0


@dataclass(frozen=True)
class Index:
    """A data set that is ready to be read. `path` is its directory, or its URL as given."""

    path: str
    name: str
    users: int
    videos: int
    interactions: int
    user_id_type: str
    item_id_type: str
    split: Mapping[str, Any]
    counts: Mapping[str, int]
    features: Features | None
    items_file: FileEntry
    users_file: FileEntry
    sequence_shards: tuple[SequenceShard, ...]
    feature_shards: tuple[FeatureShard, ...]
    fingerprint: str
    source: Mapping[str, Any]
    oracle_file: FileEntry | None = None

    @property
    def frames(self) -> int:
        """M, frames a video; 0 without features."""
        return self.features.frames if self.features else 0

    @property
    def width(self) -> int:
        """V, raw feature width; 0 without features."""
        return self.features.width if self.features else 0

    @property
    def split_kind(self) -> str:
        return self.split["kind"]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the index lists."""
        rest = (self.oracle_file,) if self.oracle_file else ()
        return (self.items_file, self.users_file, *self.sequence_shards, *self.feature_shards, *rest)

    @classmethod
    def load(cls, path: str | Path, check_sizes: bool = True) -> Index:
        """Read and validate `path`/index.json; compare the size of every local file. DataError at the first
        fault."""
        if is_remote(path):
            from shards import remote  # fsspec is needed by remote data sets alone

            file = remote.fetch(str(path), INDEX_FILE)
        else:
            file = Path(path) / INDEX_FILE
            if not Path(path).is_dir():
                raise DataError(f"{path}: no such data set directory")
            if not file.is_file():
                raise DataError(f"{path}: no {INDEX_FILE}: not a data set, or one whose writing was cut off")
        try:
            raw = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not readable as JSON: {error}") from None
        index = parse_index(raw, str(path))
        if check_sizes and not is_remote(path):
            for entry in index.files:
                check_size(Path(path) / entry.file, entry)
        return index

    def local(self, entry: FileEntry) -> Path:
        """`entry` as a file of this host; a remote one is fetched into the local cache first."""
        if is_remote(self.path):
            from shards import remote

            return Path(remote.fetch(self.path, entry.file, entry.bytes, entry.sha256))
        return Path(self.path) / entry.file

    def item_ids(self) -> np.ndarray | list[str]:
        """[I] original ids, int64 array or list of str; element j belongs to item j+1."""
        return self._column(self.items_file, "id", self.videos, self.item_id_type)

    def user_ids(self) -> np.ndarray | list[str]:
        """[users] original ids, int64 array or list of str; element u belongs to sample_id u."""
        return self._column(self.users_file, "id", self.users, self.user_id_type)

    def train_counts(self) -> np.ndarray:
        """int64 [I+1]: events of each item in the training part; 0 at row 0 (padding)."""
        counts = self._column(self.items_file, "train_count", self.videos, "int64")
        return np.concatenate([np.zeros(1, np.int64), counts])

    def _column(self, entry: FileEntry, column: str, rows: int, kind: str) -> np.ndarray | list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self.local(entry)
        try:
            values = pq.read_table(file, columns=[column]).column(column)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{file}: column {column} not readable: {error}") from None
        if len(values) != rows or values.type != (pa.int64() if kind == "int64" else pa.string()):
            found = f"{len(values)} rows of {values.type}"
            raise DataError(f"{file}: column {column}: found {found}, expected {rows} rows of {kind}")
        return values.to_numpy() if kind == "int64" else values.to_pylist()


def check_size(path: Path, entry: FileEntry) -> None:
    """DataError where the file is missing or has another size than the index says."""
    try:
        found = path.stat().st_size
    except OSError:
        raise DataError(f"{path}: missing; the index expects {entry.bytes} bytes") from None
    if found != entry.bytes:
        fault = "truncated" if found < entry.bytes else "changed"
        raise DataError(f"{path}: {fault}: found {found} bytes, expected {entry.bytes}")


def evaluated(length: np.ndarray, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which users count in (validation, test): bool [n] each, from `length` [n] and `boundary` [n, 2].

    A part's target is its last item; it needs at least one item of history before it."""
    train_end, valid_end = boundary[:, 0], boundary[:, 1]
    enough = length >= MIN_EVALUATED
    return enough & (valid_end > train_end) & (valid_end >= 2), enough & (length > valid_end)


class _Fields:
    """A JSON object read field by field, with the place in every error."""

    def __init__(self, raw: Any, place: str):
        if not isinstance(raw, dict):
            raise DataError(f"{place}: found {type(raw).__name__}, expected an object")
        self.raw, self.place = raw, place

    def take(self, name: str, kind: type, least: int | None = None, choices: tuple[str, ...] = ()) -> Any:
        if name not in self.raw:
            raise DataError(f"{self.place}: field {name} is missing")
        value = self.raw[name]
        right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if not right or (least is not None and value < least) or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else kind.__name__
            expected += f" >= {least}" if least is not None else ""
            raise DataError(f"{self.place}: field {name}: found {value!r:.60}, expected {expected}")
        return value

    def file(self) -> dict[str, Any]:
        file, sha256 = self.take("file", str), self.take("sha256", str)
        if file.startswith("/") or ".." in file.split("/"):
            raise DataError(f"{self.place}: field file: found {file!r}, expected a path inside the data set")
        return {"file": file, "bytes": self.take("bytes", int, 0), "sha256": sha256}


def _pairs(raw: list[Any], place: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(length), int(users)) for length, users in raw)
    except (TypeError, ValueError):
        raise DataError(
            f"{place}: field train_lengths: found {raw!r:.60}, expected [length, users] pairs"
        ) from None


def parse_index(raw: Any, path: str) -> Index:
    """`raw` (the parsed index.json of `path`) as an Index, or a DataError that names the field at fault."""
    place = f"{path}/{INDEX_FILE}"
    top = _Fields(raw, place)
    version = top.take("schema_version", int)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{place}: schema_version: found {version}, expected {SCHEMA_VERSION}; import it anew"
        )
    id_type = _Fields(top.take("id_type", dict), f"{place}: id_type")
    split = top.take("split", dict)
    _Fields(split, f"{place}: split").take("kind", str, choices=SPLIT_KINDS)
    features = None
    if top.raw.get("features") is not None:
        part = _Fields(raw["features"], f"{place}: features")
        features = Features(
            part.take("frames", int, 1),
            part.take("width", int, 1),
            part.take("dtype", str, choices=FEATURE_DTYPES),
            part.take("videos_with_features", int, 0),
        )
    sequence_shards, first = [], 0
    for number, shard in enumerate(top.take("sequence_shards", list)):
        part = _Fields(shard, f"{place}: sequence_shards[{number}]")
        lengths = _pairs(part.take("train_lengths", list), part.place)
        entry = SequenceShard(
            **part.file(),
            users=part.take("users", int, 1),
            first_user=part.take("first_user", int, 0),
            train_lengths=lengths,
        )
        if entry.first_user != first or sum(count for _, count in lengths) != entry.users:
            raise DataError(f"{part.place}: users, first_user and train_lengths do not agree")
        first += entry.users
        sequence_shards.append(entry)
    feature_shards = []
    for number, shard in enumerate(top.take("feature_shards", list)):
        part = _Fields(shard, f"{place}: feature_shards[{number}]")
        feature_shards.append(
            FeatureShard(
                **part.file(), videos=part.take("videos", int, 1), first_item=part.take("first_item", int, 1)
            )
        )
    users = top.take("users", int, 0)
    if not sequence_shards:
        raise DataError(f"{place}: no shards: sequence_shards is empty")
    if first != users:
        raise DataError(f"{place}: users: found {users}, expected {first}, the sum over sequence_shards")
    held = sum(shard.videos for shard in feature_shards)
    if held != (features.videos_with_features if features else 0):
        raise DataError(
            f"{place}: features: the feature shards hold {held} videos, videos_with_features says otherwise"
        )
    counts = _Fields(top.take("counts", dict), f"{place}: counts")
    oracle = top.raw.get("oracle")
    return Index(
        path=path,
        name=top.take("name", str),
        users=users,
        videos=top.take("videos", int, 1),
        interactions=top.take("interactions", int, 1),
        user_id_type=id_type.take("user", str, choices=ID_TYPES),
        item_id_type=id_type.take("item", str, choices=ID_TYPES),
        split=split,
        counts={name: counts.take(name, int, 0) for name in COUNTS},
        features=features,
        items_file=FileEntry(**_Fields(top.take("items", dict), f"{place}: items").file()),
        users_file=FileEntry(**_Fields(top.take("users_file", dict), f"{place}: users_file").file()),
        sequence_shards=tuple(sequence_shards),
        feature_shards=tuple(feature_shards),
        fingerprint=top.take("fingerprint", str),
        source=top.take("source", dict),
        oracle_file=FileEntry(**_Fields(oracle, f"{place}: oracle").file()) if oracle is not None else None,
    )
