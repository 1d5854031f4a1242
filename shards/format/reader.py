"""Reads the records of one shard, which WebDataset groups and decodes.

Size and sha256 of a tar are compared with the index when a process first reads it. Faults are DataErrors of
one line.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.autodecode import Decoder, DecodingError
from webdataset.tariterators import group_by_keys

from shards.errors import DataError
from shards.format.files import open_regular, verify
from shards.format.index import FeatureShard, Index, SequenceShard
from shards.format.npy import decode_array
from shards.format.records import BLOCK_FIELDS, Block, block_faults, video_faults

_META = re.compile(r"__[^/]*__($|/)")  # what WebDataset leaves out


def iterate_samples(path: str | Path) -> Iterator[dict[str, Any]]:
    """Raw samples of a tar in order: `__key__` and the undecoded bytes of every field. No verification."""
    try:
        yield from group_by_keys(_members(path))
    # RecursionError, OverflowError: of `tarfile`, at headers that follow each other or say absurd sizes.
    except (tarfile.TarError, ValueError, EOFError, OSError, RecursionError, OverflowError) as error:
        reason = str(error.args[0] if error.args else error)
        raise DataError(f"{path}: not readable as a plain tar: {reason}") from None


def _members(path: str | Path) -> Iterator[dict[str, Any]]:
    """The files in a tar as WebDataset groups them, read no further than the tar itself goes.

    WebDataset's own iterator also reads compressed and sparse tars, of which a kilobyte can hold terabytes.
    """
    with _Clamped(open_regular(path).detach()) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.size < 0 or member.issparse():
                raise tarfile.ReadError(f"{member.name}: sparse, or of a size below 0")
            if member.isreg() and not _META.match(member.name):
                if member.offset_data + member.size > file.size:
                    raise tarfile.ReadError(f"{member.name}: unexpected end of data")
                file.seek(member.offset_data)
                yield {"fname": member.name, "data": file.read(member.size), "__url__": str(path)}
            tar.members = []  # type: ignore[attr-defined]  # else all are kept to the end


class _Clamped(io.BufferedReader):
    """A file that is never asked for more than it has: Python would first allocate what is asked for."""

    def __init__(self, raw: io.RawIOBase):
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, count: int | None = -1) -> bytes:
        """Up to `count` bytes, to the end where it is below 0."""
        left = max(0, self.size - self.tell())
        return super().read(left if count is None or count < 0 else min(count, left))


def decode_sample(path: str | Path, sample: dict[str, Any], fields: tuple[str, ...]) -> list[Any]:
    """The decoded `fields` of a raw sample: arrays by their header, the others by WebDataset's decoder.

    Raises:
        DataError: a field is missing or broken.
    """
    key = sample["__key__"]
    for field in fields:
        if field not in sample:
            present = ", ".join(sorted(name for name in sample if not name.startswith("__")))
            raise DataError(f"{path}: record {key}, field {field}: found only {present}, expected it")
    decoded = []
    for field in fields:
        try:
            if field.endswith(".npy"):
                decoded.append(decode_array(sample[field], "fiu"))
            else:
                decoded.append(Decoder([])({field: sample[field]})[field])
        except (ValueError, DecodingError) as error:
            reason = error.__cause__ or error
            raise DataError(f"{path}: record {key}, field {field}: not decodable: {reason}") from None
    return decoded


def decode_block(path: str | Path, sample: dict[str, Any]) -> Block:
    """A raw sample of a sequence shard as a Block, its fields not judged."""
    return Block(*decode_sample(path, sample, tuple(f"{name}.npy" for name in BLOCK_FIELDS)))


def decode_video(path: str | Path, sample: dict[str, Any]) -> tuple[int, np.ndarray, int]:
    """A raw sample of a feature shard as (item row, frames [M, V], real frames), only its key judged."""
    key = sample["__key__"]
    prefix, _, number = key.rpartition("-")
    if prefix != "video" or not number.isdigit():
        raise DataError(f"{path}: record {key}, field __key__: found {key!r}, expected video-<item row>")
    frames, count = decode_sample(path, sample, ("frames.npy", "count.cls"))
    return int(number), frames, count


def read_sequence_shard(index: Index, entry: SequenceShard) -> Block:
    """All users of one sequence shard of the data set as one Block, verified and judged."""
    path = index.local(entry)
    verify(path, entry)
    blocks, user = [], entry.first_user
    for sample in iterate_samples(path):
        block = decode_block(path, sample)
        for fault in block_faults(block, sample["__key__"], user, index.videos):
            raise DataError(f"{path}: {fault}")
        blocks.append(block)
        user += len(block.user)
    if user - entry.first_user != entry.users:
        raise DataError(f"{path}: found {user - entry.first_user} users, expected {entry.users}")
    return Block.concatenate(blocks)


def read_feature_shard(index: Index, entry: FeatureShard) -> Iterator[tuple[int, np.ndarray, int]]:
    """Every video of one feature shard as (item row, frames [M, V], real frames), verified and judged."""
    features = index.features
    assert features is not None, "an index with feature shards says their shape"
    path = index.local(entry)
    verify(path, entry)
    videos, last = 0, entry.first_item - 1
    for sample in iterate_samples(path):
        item, frames, count = decode_video(path, sample)
        if not last < item <= index.videos:
            raise DataError(
                f"{path}: record {sample['__key__']}: expected an item row in {last + 1}..{index.videos}"
            )
        for fault in video_faults(
            frames, count, sample["__key__"], (features.frames, features.width), features.dtype
        ):
            raise DataError(f"{path}: {fault}")
        yield item, frames, count
        videos, last = videos + 1, item
    if videos != entry.videos:
        raise DataError(f"{path}: found {videos} videos, expected {entry.videos}")
