"""The feature table: the frame features of all videos, once on each host, joined to batches by index.

One `.npy` that all processes of the host map into memory (so they share its pages), filled from the feature
shards by whoever comes first. It lives in a cache folder of its own, keyed by the data set's fingerprint.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from shards import cache
from shards.errors import DataError
from shards.format.index import Index, is_remote
from shards.format.reader import read_feature_shard
from shards.remote import cache_root
from shards.stream.batch import Batch

FEATURES_FILE = "features.npy"
FRAMES_FILE = "frames.npy"


class FeatureTable:
    """Frame features of all videos.

    features: np.memmap `[I+1, M, V]` float16 or float32, row j = video j, row 0 and videos without features
    zero.
    frames: int64 `[I+1]`, real frames of each video; 0 for row 0 and videos without features.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # Copy on write: torch wants writable memory; the file stays as it is, its pages are shared.
        self.features: np.ndarray = np.load(folder / FEATURES_FILE, mmap_mode="c")
        self.frames: np.ndarray = np.load(folder / FRAMES_FILE)
        self._features = torch.from_numpy(self.features)
        self._frames = torch.from_numpy(self.frames)

    def __reduce__(self):
        """Another process maps the file itself (and a table in device memory travels as one on the host)."""
        return FeatureTable, (self.folder,)

    @staticmethod
    def open(index: Index, cache_dir: str | Path | None = None) -> FeatureTable | None:
        """The host's table for this data set, filled first where there is none yet; None without features.

        DataError for a fault in the features (shard and video named) or a cache that cannot hold them.
        """
        if index.features is None:
            return None
        folder = cache_root(cache_dir) / "features" / re.sub(r"[^0-9A-Za-z]+", "-", index.fingerprint)
        if not folder.is_dir():
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with _announced(FileLock(f"{folder}.lock"), folder):
                    if not folder.is_dir():  # else another process has filled it while we waited
                        cache.make_room(cache_root(cache_dir), folder, _size(index))
                        _fill(index, folder)
            except OSError as error:
                raise DataError(f"{folder}: the feature table cannot be written: {error}") from None
        cache.use(folder)
        return _checked(folder, index)

    def to(self, device: torch.device | str) -> FeatureTable:
        """This table with its features held in the memory of `device`, where `join` then works."""
        table = FeatureTable(self.folder)
        table._features = table._features.to(device)
        table._frames = table._frames.to(device)
        return table

    @property
    def device(self) -> torch.device:
        """Where `join` puts the features."""
        return self._features.device

    @property
    def nbytes(self) -> int:
        return self.features.nbytes

    def join(self, batch: Batch) -> Batch:
        """`batch` with `features` [U, M, V], `frames` [U], `feature_row` [B, L] on the table's device.

        A batch that is on that device already is joined there; one on the host sends only its row numbers.
        """
        item = batch["item"]
        with_padding = torch.cat([item.new_zeros(1), item.reshape(-1)])  # row 0 is padding in every batch
        distinct, row = torch.unique(with_padding, return_inverse=True)
        distinct = distinct.to(self.device)
        return {
            **batch,
            "features": self._features.index_select(0, distinct),
            "frames": self._frames.index_select(0, distinct),
            "feature_row": row[1:].view(item.shape).to(self.device),
        }


def _announced(lock: FileLock, folder: Path) -> FileLock:
    """`lock`, acquired; says once that it waits where another process holds it."""
    try:
        return lock.acquire(timeout=0.2)
    except Timeout:
        _say(f"waiting for another process to fill {folder}")
        return lock.acquire()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _shape(index: Index) -> tuple[int, int, int]:
    """A row for each video, and row 0 for padding."""
    return index.videos + 1, index.frames, index.width


def _size(index: Index) -> int:
    """Bytes of the table's features."""
    return int(np.prod(_shape(index), dtype=np.int64)) * np.dtype(index.features.dtype).itemsize


def _fill(index: Index, folder: Path) -> None:
    """Write the table next to its place and move it there when it is whole. Called under the lock."""
    for left in folder.parent.glob(f"{folder.name}.partial-*"):  # of killed processes
        shutil.rmtree(left, ignore_errors=True)
    shape, dtype = _shape(index), np.dtype(index.features.dtype)
    _say(f"filling the feature table of {index.name}: {_size(index) / 1e6:.0f} MB in {folder}")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        features = np.lib.format.open_memmap(partial / FEATURES_FILE, mode="w+", dtype=dtype, shape=shape)
        _reserve(partial / FEATURES_FILE)
        frames = np.zeros(shape[0], dtype=np.int64)
        paths = [index.local(shard) for shard in index.feature_shards]
        for path, shard in zip(paths, index.feature_shards, strict=True):
            for item, video, count in read_feature_shard(path, shard, index.features, index.videos):
                features[item], frames[item] = video, count
        features.flush()
        np.save(partial / FRAMES_FILE, frames)
        for name in (FEATURES_FILE, FRAMES_FILE):
            with open(partial / name, "rb") as file:
                os.fsync(file.fileno())
        os.rename(partial, folder)
        if is_remote(index.path):  # the copies were fetched for the table alone
            for path in paths:
                path.unlink(missing_ok=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _reserve(path: Path) -> None:
    """Take the file's space now: a full disk is then an OSError here and no SIGBUS at a write to the map."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise


def _checked(folder: Path, index: Index) -> FeatureTable:
    expected = (index.videos + 1, index.frames, index.width)
    try:
        table = FeatureTable(folder)
        found = (table.features.shape, table.features.dtype.name, table.frames.shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged ({error}); remove this folder, it is filled anew") from None
    if found != (expected, index.features.dtype, expected[:1]):
        raise DataError(
            f"{folder}: found features {found[0]} {found[1]} and frames {found[2]}, expected {expected} "
            f"{index.features.dtype}; remove this folder, it is filled anew"
        )
    return table
