"""The feature table: the frame features of all videos, once on each host, joined to batches by index.

One `.npy` that all processes of the host map into memory (so they share its pages), filled from the feature
shards by the first process that needs it. It lives in a cache folder of its own, keyed by the data set's
fingerprint.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout

from shards.cache import cache_root, reserve, touch
from shards.errors import DataError
from shards.format.index import Features, Index
from shards.format.partial import PartialPath
from shards.format.reader import read_feature_shard
from shards.remote import is_remote
from shards.stream.batch import Batch
from shards.stream.buckets import rounded_up

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

    def __reduce__(self) -> tuple[type[FeatureTable], tuple[Path]]:
        """Another process maps the file itself (and gets a table in device memory as one on the host)."""
        return FeatureTable, (self.folder,)

    @staticmethod
    def open(index: Index, cache_dir: str | Path | None = None) -> FeatureTable | None:
        """The host's table for this data set, filled first where there is none yet; None without features.

        Raises:
            DataError: a fault in the features (shard and video named), or a cache that cannot hold them.
        """
        features = index.features
        if features is None:
            return None
        shape = (index.videos + 1, features.frames, features.width)  # row 0 is padding
        folder = cache_root(cache_dir) / "features" / re.sub(r"[^0-9A-Za-z]+", "-", index.fingerprint)
        if not folder.is_dir():
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(features.dtype).itemsize
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with _acquire(FileLock(f"{folder}.lock"), folder):
                    if not folder.is_dir():  # else another process has filled it while this one waited
                        reserve(cache_root(cache_dir), folder, size)
                        _log(f"filling the feature table of {index.name}: {size / 1e6:.0f} MB in {folder}")
                        _fill(index, PartialPath(folder), shape, features)
            except OSError as error:
                raise DataError(f"{folder}: the feature table cannot be written: {error}") from None
        touch(folder)
        return _load(folder, shape, features)

    def to(self, device: torch.device | str) -> FeatureTable:
        """This table with its features held in the memory of `device`, where `gather` then works."""
        table = FeatureTable(self.folder)
        table._features = table._features.to(device)
        table._frames = table._frames.to(device)
        return table

    @property
    def device(self) -> torch.device:
        """Where the features are held and gathered."""
        return self._features.device

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.features.nbytes

    def join(self, batch: Batch, *, few_sizes: bool = False) -> Batch:
        """`batch`, on the host, with `feature_row` [B, L], and `features` [U, M, V] and `frames` [U].

        A table in device memory leaves those two to `gather`: the batch has the videos in their place.
        few_sizes: U is rounded up by more rows of padding.
        """
        item = batch["item"]
        with_padding = torch.cat([item.new_zeros(1), item.reshape(-1)])  # row 0 is padding in every batch
        video, row = torch.unique(with_padding, return_inverse=True)
        if few_sizes:
            video = F.pad(video, (0, rounded_up(len(video), len(self.frames)) - len(video)))
        joined: Batch = {**batch, "feature_row": row[1:].view(item.shape), "video": video}
        return self.gather(joined) if self.device.type == "cpu" else joined

    def gather(self, batch: Batch) -> Batch:
        """`batch` with `features` and `frames` of its videos, all on the table's device."""
        features = self._features.index_select(0, batch["video"])
        frames = self._frames.index_select(0, batch["video"])
        gathered: Batch = {**batch, "features": features, "frames": frames}
        del gathered["video"]
        return gathered


def _acquire(lock: FileLock, folder: Path) -> AbstractContextManager[object]:
    """Acquire `lock` until the returned context ends; log once that another process holds it."""
    try:
        return lock.acquire(timeout=0.2)
    except Timeout:
        _log(f"waiting for another process to fill {folder}")
        return lock.acquire()


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fill(index: Index, partial: PartialPath, shape: tuple[int, int, int], features: Features) -> None:
    """Write the table, and move it to its folder when it is complete. Called under the lock."""
    partial.discard_all()
    paths = [index.local(shard) for shard in index.feature_shards]
    with partial:
        partial.make_folder()
        table = np.lib.format.open_memmap(
            partial.path / FEATURES_FILE, mode="w+", dtype=np.dtype(features.dtype), shape=shape
        )
        _allocate(partial.path / FEATURES_FILE)
        frames = np.zeros(shape[0], dtype=np.int64)
        for shard in index.feature_shards:
            for item, video, count in read_feature_shard(index, shard):
                table[item], frames[item] = video, count
        table.flush()
        np.save(partial.path / FRAMES_FILE, frames)
        partial.commit()
    if is_remote(index.path):  # the copies were fetched for the table alone
        for path in paths:
            path.unlink(missing_ok=True)


def _allocate(path: Path) -> None:
    """Take the file's space now: a full disk is then an OSError here, not a SIGBUS at a write to the map."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise


def _load(folder: Path, shape: tuple[int, int, int], features: Features) -> FeatureTable:
    advice = "remove this folder, it is filled again"
    try:
        table = FeatureTable(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged ({error}); {advice}") from None
    stored = (table.features.shape, table.features.dtype.name, table.frames.shape)
    if stored != (shape, features.dtype, shape[:1]):
        raise DataError(
            f"{folder}: found features {stored[0]} {stored[1]} and frames {stored[2]}, "
            f"expected {shape} {features.dtype}; {advice}"
        )
    return table
