"""Data sets that are not on this host: each file is fetched once into a local cache and read from there.

A data set's address is a URL for fsspec (`s3://bucket/set`, `https://host/set`, `file:///set`) or a
WebDataset command `pipe:COMMAND`, where `{}` stands for the file inside the data set (`pipe:aws s3 cp
s3://bucket/set/{} -`); without `{}` the file is appended (`pipe:ssh host cat /set`).

The cache serves all processes of a host. A file is fetched under a lock, beside its target, compared with the
size and sha256 of the index and only then moved there, so that a killed or broken transfer leaves nothing
that is read.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from filelock import FileLock

from shards.address import address_of, hide, shown
from shards.cache import cache_root, reserve
from shards.errors import DataError
from shards.format.files import FileEntry, checksum_fault, is_verified, mark_verified, size_fault
from shards.format.partial import PartialPath

ATTEMPTS = 3
RETRY_SECONDS = 1.0  # before the second attempt; doubles


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
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
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
        _copy(address, path)
    except FileNotFoundError:
        raise DataError("no such file") from None
    except ImportError as error:
        raise DataError(f"cannot be read without a package that is missing: {error}") from None
    except Exception as error:  # fsspec's back ends raise what their libraries raise
        return f"cannot be read: {type(error).__name__}: {error}"
    return _fault(path, entry) if entry is not None else None


def _copy(address: str, path: Path) -> None:
    # Imported here: only data sets that are not on this host need them.
    if address.startswith("pipe:"):
        from webdataset.gopen import gopen

        with gopen(address, "rb") as source, open(path, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    else:
        from fsspec.core import url_to_fs

        # No shared instance: a forked data worker must not inherit its parent's connections.
        system, name = url_to_fs(address, skip_instance_cache=True)
        system.get_file(name, str(path))


def _fault(path: Path, entry: FileEntry) -> str | None:
    return size_fault(path, entry) or checksum_fault(path, entry)
