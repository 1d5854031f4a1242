"""The cache of a host: where it is, and how it keeps to its size.

Before a data set's copy or feature table grows, the entries that were used least recently are removed. What
is removed is made again when it is next needed, and a process that has a file open keeps it, so nothing in
use is lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from shards.errors import DataError

VARIABLE = "MEALREC_CACHE_GB"
KINDS = ("features", "remote")  # folders of the cache that hold one entry per data set
_reserved: dict[Path, int] = {}  # bytes that this process may add before it looks again


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where this host keeps what it fetched or computed: `cache_dir`, $MEALREC_CACHE or ~/.cache/mealrec."""
    return Path(cache_dir or os.environ.get("MEALREC_CACHE") or "~/.cache/mealrec").expanduser()


def size_limit(root: Path) -> int:
    """Bytes that the cache may take: $MEALREC_CACHE_GB, or half of its file system.

    Raises:
        DataError: the variable is not a number above 0.
    """
    value = os.environ.get(VARIABLE)
    if value is None:
        return shutil.disk_usage(root).total // 2
    try:
        gigabytes = float(value)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise DataError(f"{VARIABLE}: found {value!r}, expected a number of gigabytes above 0")
    return int(gigabytes * 1e9)


def reserve(root: Path, entry: Path, needed: int) -> None:
    """Let `entry` grow by `needed` bytes, removing other entries where the limit requires it.

    `entry` becomes the one that was used last.

    Raises:
        DataError: more is needed than the cache may hold.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    touch(entry)
    if _reserved.get(root, -1) >= needed:
        _reserved[root] -= needed
        return
    with FileLock(root / "cache.lock"):
        limit = size_limit(root)
        sizes = {other: entry_size(other) for kind in KINDS for other in _entries(root / kind)}
        own = sizes.pop(entry, 0)
        if own + needed > limit:
            raise DataError(
                f"{entry} would take {(own + needed) / 1e9:.1f} GB, and the cache may hold {limit / 1e9:.1f}:"
                f" set {VARIABLE}, or another $MEALREC_CACHE"
            )
        total = own + needed + sum(sizes.values())
        for other in sorted(sizes, key=last_use):
            if total <= limit:
                break
            shutil.rmtree(other, ignore_errors=True)
            total -= sizes[other]
        _reserved[root] = max(0, limit - total)


def touch(entry: Path) -> None:
    """Note that an entry is used now, if it exists."""
    if entry.is_dir():
        os.utime(entry)


def last_use(entry: Path) -> float:
    """Time stamp of an entry's last use; 0 for one that has just been removed."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def entry_size(entry: Path) -> int:
    """Bytes of an entry's files."""
    total = 0
    for folder, _, files in os.walk(entry):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except OSError:  # another process has just removed it
                continue
    return total


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
