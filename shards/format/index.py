"""The index of a data set: what `index.json` says, as dataclasses, loaded with every fault named.

A data set is a directory (schema version 1):

    index.json                        written last; the only file that has to be opened to know the rest
    items.parquet                     row j is item j+1: `id` (int64 or string, the original), `train_count`
                                      int64
    users.parquet                     row u is sample_id u: `id` (the original)
    sequences/sequences-000000.tar    samples = blocks of up to 512 users (see `records.Block`)
    features/features-000000.tar      samples = one video each: `frames.npy` [M, V], `count.cls`; absent
                                      without features
    oracle.json                       synthetic data sets only
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import DataError
from shards.format.files import FileEntry, check_size
from shards.format.json_fields import JsonFields
from shards.remote import fetch, is_remote

if TYPE_CHECKING:
    import numpy as np

    from shards.format.columns import Ids

SCHEMA_VERSION = 1
INDEX_FILE = "index.json"
SPLIT_KINDS = ("leave-one-out", "time", "given", "none")
ID_TYPES = ("int64", "string")
FEATURE_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class SequenceShard(FileEntry):
    """A tar of user blocks.

    train_lengths: histogram of training lengths, ((length, users), ...) ascending.
    """

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
    """Shape of the frame features: records are `[frames, width]` of `dtype`, zero past their frame count."""

    frames: int
    width: int
    dtype: str
    videos_with_features: int = 0


@dataclass(frozen=True)
class Counts:
    """Events in the training parts, users with a target in each split, users too short to have one."""

    train_events: int
    valid_users: int
    test_users: int
    short_users: int


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
    counts: Counts
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
        """M, frames per video; 0 without features."""
        return self.features.frames if self.features else 0

    @property
    def width(self) -> int:
        """V, raw feature width; 0 without features."""
        return self.features.width if self.features else 0

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the index lists."""
        rest = (self.oracle_file,) if self.oracle_file else ()
        return (self.items_file, self.users_file, *self.sequence_shards, *self.feature_shards, *rest)

    @classmethod
    def load(cls, path: str | Path, check_sizes: bool = True) -> Index:
        """Read and validate `path`/index.json; compare the size of every local file.

        Raises:
            DataError: at the first fault.
        """
        if is_remote(path):
            file = fetch(str(path), INDEX_FILE)
        else:
            file = Path(path) / INDEX_FILE
            if not Path(path).is_dir():
                raise DataError(f"{path}: no such data set directory")
            if not file.is_file():
                raise DataError(f"{path}: no {INDEX_FILE}: not a data set, or one whose writing was cut off")
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not readable as JSON: {error}") from None
        index = parse_index(raw, str(path))
        if check_sizes and not is_remote(path):
            for entry in index.files:
                check_size(index.local(entry), entry)
        return index

    def local(self, entry: FileEntry) -> Path:
        """`entry` as a file of this host; a remote one is fetched into the local cache first."""
        if is_remote(self.path):
            return fetch(self.path, entry.file, entry)
        return Path(self.path) / entry.file

    def item_ids(self) -> Ids:
        """[I] original ids; element j belongs to item j+1."""
        from shards.format.columns import read_column  # here: an index is read without NumPy and Arrow

        return read_column(self.local(self.items_file), "id", self.videos, self.item_id_type)

    def user_ids(self) -> Ids:
        """[users] original ids; element u belongs to sample_id u."""
        from shards.format.columns import read_column

        return read_column(self.local(self.users_file), "id", self.users, self.user_id_type)

    def train_counts(self) -> np.ndarray:
        """int64 [I+1]: events of each item in the training part; 0 at row 0 (padding)."""
        from shards.format.columns import read_counts

        return read_counts(self.local(self.items_file), "train_count", self.videos)


def parse_index(raw: Any, path: str) -> Index:
    """`raw` (the parsed index.json of `path`) as an Index, or a DataError that names the field at fault."""
    location = f"{path}/{INDEX_FILE}"
    top = JsonFields(raw, location)
    version = top.take("schema_version", int)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{location}: schema_version: found {version}, expected {SCHEMA_VERSION}; import it again"
        )
    id_type = top.part("id_type")
    split = top.part("split")
    split.take("kind", str, choices=SPLIT_KINDS)
    features = _features(top)
    sequence_shards = _sequence_shards(top)
    feature_shards = _feature_shards(top, features)
    counts = top.part("counts")
    oracle = top.optional_part("oracle")
    return Index(
        path=path,
        name=top.take("name", str),
        users=top.take("users", int, 0),
        videos=top.take("videos", int, 1),
        interactions=top.take("interactions", int, 1),
        user_id_type=id_type.take("user", str, choices=ID_TYPES),
        item_id_type=id_type.take("item", str, choices=ID_TYPES),
        split=split.raw,
        counts=Counts(**{field.name: counts.take(field.name, int, 0) for field in fields(Counts)}),
        features=features,
        items_file=FileEntry(*_file(top.part("items"))),
        users_file=FileEntry(*_file(top.part("users_file"))),
        sequence_shards=sequence_shards,
        feature_shards=feature_shards,
        fingerprint=top.take("fingerprint", str),
        source=top.take("source", dict),
        oracle_file=FileEntry(*_file(oracle)) if oracle else None,
    )


def _features(top: JsonFields) -> Features | None:
    part = top.optional_part("features")
    if part is None:
        return None
    return Features(
        frames=part.take("frames", int, 1),
        width=part.take("width", int, 1),
        dtype=part.take("dtype", str, choices=FEATURE_DTYPES),
        videos_with_features=part.take("videos_with_features", int, 0),
    )


def _sequence_shards(top: JsonFields) -> tuple[SequenceShard, ...]:
    """The sequence shards, whose users must follow each other and add up to the data set's."""
    shards, first = [], 0
    for part in top.parts("sequence_shards"):
        shard = SequenceShard(
            *_file(part),
            users=part.take("users", int, 1),
            first_user=part.take("first_user", int, 0),
            train_lengths=_pairs(part, "train_lengths"),
        )
        if shard.first_user != first or sum(count for _, count in shard.train_lengths) != shard.users:
            raise DataError(f"{part.location}: users, first_user and train_lengths do not agree")
        first += shard.users
        shards.append(shard)
    users = top.take("users", int, 0)
    if not shards:
        raise DataError(f"{top.location}: no shards: sequence_shards is empty")
    if first != users:
        raise DataError(
            f"{top.location}: users: found {users}, expected {first}, the sum over sequence_shards"
        )
    return tuple(shards)


def _feature_shards(top: JsonFields, features: Features | None) -> tuple[FeatureShard, ...]:
    """The feature shards, which must hold as many videos as `features` says."""
    shards = tuple(
        FeatureShard(
            *_file(part), videos=part.take("videos", int, 1), first_item=part.take("first_item", int, 1)
        )
        for part in top.parts("feature_shards")
    )
    videos = sum(shard.videos for shard in shards)
    if videos != (features.videos_with_features if features else 0):
        raise DataError(
            f"{top.location}: features: the feature shards hold {videos} videos, "
            "videos_with_features says otherwise"
        )
    return shards


def _file(part: JsonFields) -> tuple[str, int, str]:
    """The fields of a FileEntry."""
    file, sha256 = part.take("file", str), part.take("sha256", str)
    if file.startswith("/") or ".." in file.split("/"):
        raise DataError(f"{part.location}: field file: found {file!r}, expected a path inside the data set")
    return file, part.take("bytes", int, 0), sha256


def _pairs(part: JsonFields, name: str) -> tuple[tuple[int, int], ...]:
    raw = part.take(name, list)
    try:
        return tuple((int(length), int(users)) for length, users in raw)
    except (TypeError, ValueError):
        raise DataError(
            f"{part.location}: field {name}: found {raw!r:.60}, expected [length, users] pairs"
        ) from None
