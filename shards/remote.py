"""Data sets that are not on this host: each file is fetched once into a local cache and read from there.

A data set's address is a URL for fsspec (`s3://bucket/set`, `https://host/set`, `file:///set`) or a
WebDataset command `pipe:COMMAND`, where `{}` stands for the file inside the data set (`pipe:aws s3 cp
s3://bucket/set/{} -`); without `{}` the file is appended (`pipe:ssh host cat /set`).

The cache, whose size `shards.cache` bounds, serves all processes of a host: a file is fetched under a lock,
next to its place, checked against the size and sha256 of the index and only then moved there, so that a
killed or broken transfer leaves nothing that is read.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import time
from pathlib import Path

from filelock import FileLock

from shards import cache
from shards.errors import DataError
from shards.format.reader import file_sha256

ATTEMPTS = 3
RETRY_SECONDS = 1.0  # before the second attempt; doubles
_verified: set[Path] = set()  # cached files whose content this process has checked


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where this host keeps what it fetched or computed: `cache_dir`, $MEALREC_CACHE or ~/.cache/mealrec."""
    return Path(cache_dir or os.environ.get("MEALREC_CACHE") or "~/.cache/mealrec").expanduser()


def locate(base: str, file: str) -> str:
    """The address of a file of the data set at `base`."""
    if not base.startswith("pipe:"):
        return f"{base.rstrip('/')}/{file}"
    quoted = shlex.quote(file)
    return base.replace("{}", quoted) if "{}" in base else f"{base.rstrip('/')}/{quoted}"


def fetch(base: str, file: str, size: int | None = None, sha256: str | None = None) -> Path:
    """The local copy of a file of the data set at `base`.

    With a `sha256` a copy in the cache that matches is used as it is; without one (the index) it is always
    fetched. DataError, naming the address, where the file cannot be had or is not what the index says.
    """
    folder = cache_root() / "remote" / hashlib.sha256(base.rstrip("/").encode()).hexdigest()[:16]
    target = folder / file
    if sha256 is not None and target in _verified and target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if sha256 is None or not target.is_file() or _fault(target, size, sha256):
                cache.make_room(cache_root(), folder, size or 0)
                _transfer(locate(base, file), target, size, sha256)
    except OSError as error:
        raise DataError(f"{target}: the cache cannot be written: {error}") from None
    if sha256 is not None:
        _verified.add(target)
    return target


def _transfer(address: str, target: Path, size: int | None, sha256: str | None) -> None:
    for left in target.parent.glob(f"{target.name}.partial-*"):  # of killed processes: we hold the lock
        left.unlink()
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _copy(address, partial)
            fault = _fault(partial, size, sha256) if sha256 is not None else None
        except FileNotFoundError:
            raise DataError(f"{address}: no such file") from None
        except ImportError as error:
            raise DataError(f"{address}: cannot be read without a package that is missing: {error}") from None
        except Exception as error:  # fsspec's back ends raise what their libraries raise
            fault = f"cannot be read: {type(error).__name__}: {error}"
        if not fault:
            os.replace(partial, target)
            return
        partial.unlink(missing_ok=True)
        if attempt < ATTEMPTS:
            time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
    raise DataError(f"{address}: {fault} ({ATTEMPTS} attempts)")


def _copy(address: str, partial: Path) -> None:
    if address.startswith("pipe:"):
        from webdataset.gopen import gopen

        with gopen(address, "rb") as source, open(partial, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    else:
        from fsspec.core import url_to_fs

        # No shared instance: a forked data worker must not inherit its parent's connections.
        system, path = url_to_fs(address, skip_instance_cache=True)
        system.get_file(path, str(partial))
    with open(partial, "rb") as done:
        os.fsync(done.fileno())


def _fault(path: Path, size: int | None, sha256: str) -> str | None:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"found {found} bytes, expected {size}"
    digest = file_sha256(path)
    return None if digest == sha256 else f"checksum: found sha256 {digest[:16]}..., expected {sha256[:16]}..."
