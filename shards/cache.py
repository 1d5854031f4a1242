"""The size of a host's cache: before a data set's copy or table grows, those that were not used for long make
room.

What is removed is made again when it is next asked for, and a process that has a file open keeps it, so
that nothing in use is lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from shards.errors import DataError

VARIABLE = "MEALREC_CACHE_GB"
KINDS = ("features", "remote")  # folders of the cache that hold an entry a data set
_room: dict[Path, int] = {}  # bytes that this process may add before it looks again


def bound(root: Path) -> int:
    """Bytes that the cache may take: $MEALREC_CACHE_GB, or half of its file system. Raises DataError."""
    said = os.environ.get(VARIABLE)
    if said is None:
        return shutil.disk_usage(root).total // 2
    try:
        size = float(said)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise DataError(f"{VARIABLE}: found {said!r}, expected a number of gigabytes above 0")
    return int(size * 1e9)


def make_room(root: Path, entry: Path, needed: int) -> None:
    """Let `entry` grow by `needed` bytes; it is now the one that was used last.

    Raises:
        DataError: more is needed than the cache may hold.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    use(entry)
    if _room.get(root, -1) >= needed:
        _room[root] -= needed
        return
    with FileLock(root / "cache.lock"):
        most, sizes = bound(root), {other: size(other) for kind in KINDS for other in _entries(root / kind)}
        own = sizes.pop(entry, 0)
        if own + needed > most:
            raise DataError(
                f"{entry} would take {(own + needed) / 1e9:.1f} GB, and the cache may hold {most / 1e9:.1f}:"
                f" set {VARIABLE}, or another $MEALREC_CACHE"
            )
        total = own + needed + sum(sizes.values())
        for other in sorted(sizes, key=last_use):
            if total <= most:
                break
            shutil.rmtree(other, ignore_errors=True)
            total -= sizes[other]
        _room[root] = max(0, most - total)


def use(entry: Path) -> None:
    """Note that an entry is used now, if it is there."""
    if entry.is_dir():
        os.utime(entry)


def last_use(entry: Path) -> float:
    """When, as a time stamp; long ago for an entry that has just been removed."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def size(entry: Path) -> int:
    """Bytes of an entry's files."""
    total = 0
    for folder, _, files in os.walk(entry):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except OSError:  # removed meanwhile
                continue
    return total


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
