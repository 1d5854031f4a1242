"""The feature table's files in the cache of a host: filled once, under a lock, and never used damaged.

Its features are standardised over the frames of training videos. A table's folder is named after what it is
made of: the shape and the checksums of the feature shards, and which videos are in training, so no other data
set can pass for this one. `digests.json` is written when the table is filled; the files are compared with it
once per host and run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from shards.address import is_remote
from shards.cache import cache_root, reserve, touch
from shards.errors import DataError
from shards.format.files import FileEntry, checksum_fault, file_sha256, size_fault
from shards.format.index import Features, Index
from shards.format.npy import header_fault
from shards.format.partial import PartialPath
from shards.format.reader import read_feature_shard

FEATURES_FILE = "features.npy"
FRAMES_FILE = "frames.npy"
DIGESTS_FILE = "digests.json"
ROWS = 4096  # videos that are standardised at once
SESSION_FILE = "session"  # who compared the files with their digests last


class FeatureCache:
    """The cached feature table of a data set on this host."""

    def __init__(self, index: Index, features: Features, cache_dir: str | Path | None = None):
        self.index, self.features = index, features
        self.shape = (index.videos + 1, features.frames, features.width)  # row 0 is padding
        self.root = cache_root(cache_dir)
        self.watched = index.train_counts() > 0
        made_of = [
            *self.shape,
            features.dtype,
            *(shard.sha256 for shard in index.feature_shards),
            np.packbits(self.watched).tobytes().hex(),
        ]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        self.path = self.root / "features" / key[:32]

    def folder(self, verify: bool, session: str) -> Path:
        """The folder of the table, which is filled first where it is missing or damaged.

        verify: compare the files with their digests, once for all processes of the same `session`.

        Raises:
            DataError: a fault in the features, or a cache that cannot hold them.
        """
        if self.path.is_dir() and not os.access(self.path, os.W_OK):  # a cache that somebody else has filled
            if fault := self._fault(verify, session=""):
                raise DataError(f"{self.path}: damaged ({fault}), and cannot be written")
            return self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _acquire(FileLock(f"{self.path}.lock"), self.path):
                fault = self._fault(verify, session)
                if fault is not None:
                    if self.path.exists():
                        _log(f"{self.path}: damaged ({fault}): filling the feature table again")
                        shutil.rmtree(self.path)
                    self._fill()
                if verify and session:
                    (self.path / SESSION_FILE).write_text(session)
        except OSError as error:
            raise DataError(f"{self.path}: the feature table cannot be written: {error}") from None
        touch(self.path)
        return self.path

    def _fault(self, verify: bool, session: str) -> str | None:
        """What is wrong with the table; None where it can be used."""
        try:
            listed = json.loads((self.path / DIGESTS_FILE).read_bytes())
            entries = [FileEntry(name, *listed[name]) for name in (FEATURES_FILE, FRAMES_FILE)]
        except (OSError, ValueError, TypeError, KeyError):
            return f"{DIGESTS_FILE} is missing or not readable"
        verify = verify and not (session and _text(self.path / SESSION_FILE) == session)
        for entry, shape, dtype in zip(
            entries, (self.shape, self.shape[:1]), (self.features.dtype, "int64"), strict=True
        ):
            path = self.path / entry.file
            fault = size_fault(path, entry) or (checksum_fault(path, entry) if verify else None)
            fault = fault or header_fault(path, shape, dtype)
            if fault is not None:
                return f"{entry.file}: {fault}"
        return None

    def _fill(self) -> None:
        """Write the table, and move it to its folder when it is complete. Called under the lock."""
        index, features = self.index, self.features
        size = int(np.prod(self.shape, dtype=np.float64)) * np.dtype(features.dtype).itemsize
        reserve(self.root, self.path, size)
        _log(f"filling the feature table of {index.name}: {size / 1e6:.0f} MB in {self.path}")
        partial = PartialPath(self.path)
        partial.discard_all()
        paths = [index.local(shard) for shard in index.feature_shards]
        with partial:
            partial.make_folder()
            table = np.lib.format.open_memmap(
                partial.path / FEATURES_FILE, mode="w+", dtype=np.dtype(features.dtype), shape=self.shape
            )
            _allocate(partial.path / FEATURES_FILE)
            frames = np.zeros(self.shape[0], dtype=np.int64)
            for shard in index.feature_shards:
                for item, video, count in read_feature_shard(index, shard):
                    table[item], frames[item] = video, count
            standardise(table, frames, self.watched)
            table.flush()
            np.save(partial.path / FRAMES_FILE, frames)
            digests = {
                name: (os.path.getsize(partial.path / name), file_sha256(partial.path / name))
                for name in (FEATURES_FILE, FRAMES_FILE)
            }
            (partial.path / DIGESTS_FILE).write_text(json.dumps(digests))
            partial.commit()
        if is_remote(index.address):  # the copies were fetched for the table alone
            for path in paths:
                path.unlink(missing_ok=True)


def standardise(table: np.ndarray, frames: np.ndarray, watched: np.ndarray) -> None:
    """Give each feature the mean 0 and the variance 1 over the frames of watched videos, in place.

    Raw features, as published embeddings are, share a large mean that distinguishes no video [WhitenRec]. One
    that is constant becomes 0; frames beyond a video's own stay 0.

    Args:
        table: `[I+1, M, V]`; frames: int64 `[I+1]`, real frames of each video; watched: bool `[I+1]`.
    """
    parts = [slice(start, start + ROWS) for start in range(0, len(table), ROWS)]

    def real(part: slice, chosen: np.ndarray) -> np.ndarray:
        """Which frames of chosen videos there are, bool [*, M]."""
        return np.arange(table.shape[1]) < np.where(chosen[part], frames[part], 0)[:, None]

    def mean_of(value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Mean of a function of the frames of watched videos, float64 [V]."""
        sums = (value(table[part][real(part, watched)].astype(np.float64)).sum(axis=0) for part in parts)
        mean: np.ndarray = sum(sums, np.zeros(table.shape[2])) / max(int(frames[watched].sum()), 1)
        return mean

    mean = mean_of(lambda frames_RV: frames_RV)
    # Not the mean of the squares less the square of the mean: a large mean would hide the variance.
    deviation = np.sqrt(mean_of(lambda frames_RV: (frames_RV - mean) ** 2))
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    for part in parts:
        here = real(part, np.ones(len(table), dtype=bool))
        table[part][here] = (table[part][here] - mean) / scale


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def _acquire(lock: FileLock, folder: Path) -> AbstractContextManager[object]:
    """Acquire `lock` until the returned context ends; log once that another process holds it."""
    try:
        return lock.acquire(timeout=0.2)
    except Timeout:
        _log(f"waiting for another process to fill or to verify {folder}")
        return lock.acquire()


def _allocate(path: Path) -> None:
    """Take the file's space now: a full disk is then an OSError here, not a SIGBUS at a write to the map."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
