"""Data sets that are not on this host: each file is fetched once into a local cache and read from there.

A data set's address is a URL for fsspec (`s3://bucket/set`, `https://host/set`, `file:///set`) or a
command `pipe:COMMAND`, where `{}` stands for the file inside the data set (`pipe:aws s3 cp
s3://bucket/set/{} -`); without `{}` the file is appended (`pipe:ssh host cat /set`).

The cache serves all processes of a host. A file is fetched under a lock, beside its target, compared with the
size and sha256 of the index and only then moved there, so that a killed or broken transfer leaves nothing
that is read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from filelock import FileLock

from shards.address import address_of, hide, shown
from shards.cache import cache_root, reserve
from shards.errors import DataError
from shards.format.files import FileEntry, checksum_fault, is_verified, mark_verified, size_fault
from shards.format.partial import PartialPath
from shards.retry import ATTEMPTS, attempts
from shards.transfer import copy

LARGEST_INDEX = 1 << 30  # bytes; what the index lists has a size of its own


def fetch(base: str, file: str, entry: FileEntry | None = None) -> Path:
    """The local copy of a file of the data set at `base`.

    `entry` is what the index says of the file: a copy in the cache that matches it is used as it is. Without
    one (the index itself) the file is always fetched.

    Raises:
        DataError: the file cannot be fetched, or is not what the index says; the message names the address.
    """
    folder = cache_root() / "remote" / hashlib.sha256(base.rstrip("/").encode()).hexdigest()[:16]
    target = folder / file
    if entry is not None and is_verified(target, entry) and target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if entry is None or _fault(target, entry):
                reserve(cache_root(), folder, entry.bytes if entry is not None else 0)
                _transfer(base, file, target, entry)
    except OSError as error:
        raise DataError(f"{target}: the cache cannot be written: {error}") from None
    if entry is not None:
        mark_verified(target, entry)
    return target


def _transfer(base: str, file: str, target: Path, entry: FileEntry | None) -> None:
    address, location = address_of(base, file), address_of(shown(base), file)
    partial, fault = PartialPath(target), None
    partial.discard_all()
    for _ in attempts():
        with partial:
            try:
                fault = _try_copy(address, partial.path, entry)
            except DataError as error:
                raise DataError(f"{location}: {hide(str(error), address)}") from None
            if fault is None:
                partial.commit()
                return
    raise DataError(f"{location}: {hide(str(fault), address)} ({ATTEMPTS} attempts)")


def _try_copy(address: str, path: Path, entry: FileEntry | None) -> str | None:
    """Copy the file to `path` and return what went wrong, if another attempt may help."""
    try:
        copy(address, path, LARGEST_INDEX if entry is None else entry.bytes)
    except FileNotFoundError:
        raise DataError("no such file") from None
    except ImportError as error:
        raise DataError(f"cannot be read without a package that is missing: {error}") from None
    except Exception as error:  # fsspec's back ends raise what their libraries raise
        return f"cannot be read: {type(error).__name__}: {error}"
    return _fault(path, entry) if entry is not None else None


def _fault(path: Path, entry: FileEntry) -> str | None:
    return size_fault(path, entry) or checksum_fault(path, entry)
