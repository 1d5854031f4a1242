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

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shards.address import address_of, is_remote, shown
from shards.errors import DataError
from shards.format.files import FileEntry, check_size, verify
from shards.format.json_faults import first_fault
from shards.remote import LARGEST_INDEX, fetch

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from shards.format.columns import Ids

SCHEMA_VERSION = 1
INDEX_FILE = "index.json"
SplitKind = Literal["leave-one-out", "time", "given", "none"]
IdType = Literal["int64", "string"]
SPLIT_KINDS: tuple[SplitKind, ...] = get_args(SplitKind)
# What a user or an event takes in a sequence shard: a bound of their number by the size of the file.
_USER_BYTES, _EVENT_BYTES = 8 + 4 + 8, 4 + 8

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Rows = Annotated[int, Field(ge=1, lt=(1 << 31) - 1)]  # what is numbered by int32 in the records


@dataclass(frozen=True)
class SequenceShard(FileEntry):
    """A tar of user blocks.

    train_lengths: histogram of training lengths, ((length, users), ...) ascending.
    """

    users: Rows
    first_user: Count
    train_lengths: tuple[tuple[Count, Rows], ...]


@dataclass(frozen=True)
class FeatureShard(FileEntry):
    """A tar of `videos` feature records; `first_item` is the item row (from 1) of its first record."""

    videos: Rows
    first_item: Rows


@dataclass(frozen=True)
class Features:
    """Shape of the frame features: records are `[frames, width]` of `dtype`, zero past their frame count."""

    frames: Rows
    width: Rows
    dtype: Literal["float16", "float32"]
    videos_with_features: Count = 0

    @property
    def video_bytes(self) -> int:
        """Bytes of one video's frames."""
        return self.frames * self.width * (2 if self.dtype == "float16" else 4)


@dataclass(frozen=True)
class Counts:
    """Events in the training parts, users with a target in each split, users too short to have one."""

    train_events: Count
    valid_users: Count
    test_users: Count
    short_users: Count


@dataclass(frozen=True)
class Index:
    """A data set that is ready to be read.

    path: its directory, or its URL without credentials; address: the same as given, never shown.
    """

    path: str
    address: str = field(repr=False)
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
            size = file.stat().st_size
            if size > LARGEST_INDEX:
                raise DataError(f"{file}: found {size} bytes, expected at most {LARGEST_INDEX}")
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: not readable: {error.strerror}") from None
        index = parse_index(content, str(path))
        if check_sizes and not is_remote(path):
            for entry in index.files:
                check_size(index.local(entry), entry)
        return index

    def local(self, entry: FileEntry) -> Path:
        """`entry` as a file of this host; a remote one is fetched into the local cache first."""
        if is_remote(self.address):
            return fetch(self.address, entry.file, entry)
        return Path(self.path) / entry.file

    def _verified(self, entry: FileEntry) -> Path:
        path = self.local(entry)
        verify(path, entry)
        return path

    def item_ids(self) -> Ids:
        """[I] original ids; element j belongs to item j+1."""
        from shards.format.columns import read_column  # here: an index is read without NumPy and Arrow

        return read_column(self._verified(self.items_file), "id", self.videos, self.item_id_type)

    def user_ids(self) -> Ids:
        """[users] original ids; element u belongs to sample_id u."""
        from shards.format.columns import read_column

        return read_column(self._verified(self.users_file), "id", self.users, self.user_id_type)

    def item_column(self) -> pa.ChunkedArray:
        """As `item_ids`, as Arrow keeps them: text takes a tenth of the memory."""
        from shards.format.columns import read_arrow

        return read_arrow(self._verified(self.items_file), "id", self.videos, self.item_id_type)

    def user_column(self) -> pa.ChunkedArray:
        """As `user_ids`, as Arrow keeps them."""
        from shards.format.columns import read_arrow

        return read_arrow(self._verified(self.users_file), "id", self.users, self.user_id_type)

    def train_counts(self) -> np.ndarray:
        """int64 [I+1]: events of each item in the training part; 0 at row 0 (padding)."""
        from shards.format.columns import read_counts

        return read_counts(self._verified(self.items_file), "train_count", self.videos)


class _Open(BaseModel):
    """An object that may have other fields, too."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Split(_Open):
    kind: SplitKind


class _Source(_Open):
    drops: dict[str, int] = Field(default_factory=dict)


class _IdTypes(_Open):
    user: IdType
    item: IdType


class _IndexJson(_Open):
    """index.json as it is written."""

    schema_version: Literal[1]
    name: str
    users: Rows
    videos: Rows
    interactions: Annotated[Count, Field(ge=1)]
    id_type: _IdTypes
    split: _Split
    counts: Counts
    features: Features | None = None
    items: FileEntry
    users_file: FileEntry
    sequence_shards: tuple[SequenceShard, ...]
    feature_shards: tuple[FeatureShard, ...]
    fingerprint: str
    source: _Source
    oracle: FileEntry | None = None


def parse_index(content: bytes, address: str) -> Index:
    """The content of the index.json at `address` as an Index. DataError that names the field at fault."""
    path = shown(address)
    location = address_of(path, INDEX_FILE)
    try:
        raw = _IndexJson.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{location}: {first_fault(error)}") from None
    if fault := _sequence_fault(raw) or _feature_fault(raw):
        raise DataError(f"{location}: {fault}")
    return Index(
        path=path,
        address=address,
        name=raw.name,
        users=raw.users,
        videos=raw.videos,
        interactions=raw.interactions,
        user_id_type=raw.id_type.user,
        item_id_type=raw.id_type.item,
        split=raw.split.model_dump(),
        counts=raw.counts,
        features=raw.features,
        items_file=raw.items,
        users_file=raw.users_file,
        sequence_shards=raw.sequence_shards,
        feature_shards=raw.feature_shards,
        fingerprint=raw.fingerprint,
        source=raw.source.model_dump(exclude_unset=True),
        oracle_file=raw.oracle,
    )


def _sequence_fault(raw: _IndexJson) -> str | None:
    """What is wrong with the sequence shards: users follow each other, and all fit into the files."""
    first = events = 0
    for number, shard in enumerate(raw.sequence_shards):
        place, trained = (
            f"sequence_shards[{number}]",
            sum(length * users for length, users in shard.train_lengths),
        )
        if shard.first_user != first or sum(users for _, users in shard.train_lengths) != shard.users:
            return f"{place}: users, first_user and train_lengths do not agree"
        room = shard.bytes - shard.users * _USER_BYTES
        if trained * _EVENT_BYTES > room:
            found = f"{shard.users} users and {trained} training events"
            return f"{place}: found {found} in {shard.bytes} bytes, expected a larger file or fewer"
        first += shard.users
        events += room // _EVENT_BYTES
    if not raw.sequence_shards:
        return "no shards: sequence_shards is empty"
    if raw.users != first:
        return f"field users: found {raw.users}, expected {first}, the sum over sequence_shards"
    if not raw.users <= raw.interactions <= events:
        return f"field interactions: found {raw.interactions}, expected {raw.users} to {events} by the shards"
    return None


def _feature_fault(raw: _IndexJson) -> str | None:
    """What is wrong with the feature shards: videos follow each other, and all fit into the files."""
    videos, last = 0, 0
    for number, shard in enumerate(raw.feature_shards):
        place = f"feature_shards[{number}]"
        if not last < shard.first_item <= raw.videos - shard.videos + 1:
            return f"{place}: field first_item: found {shard.first_item}, expected one after {last} with room"
        if raw.features and shard.videos * raw.features.video_bytes > shard.bytes:
            found = f"{shard.videos} videos of {raw.features.video_bytes} bytes"
            return f"{place}: found {found} in {shard.bytes} bytes, expected a larger file or fewer"
        videos, last = videos + shard.videos, shard.first_item + shard.videos - 1
    expected = raw.features.videos_with_features if raw.features else 0
    if videos != expected:
        return f"the feature shards hold {videos} videos, features.videos_with_features says {expected}"
    return None
