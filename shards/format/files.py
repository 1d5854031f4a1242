"""Files of a data set: what the index says of them, and whether it holds."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from shards.errors import DataError
from shards.retry import attempts

_verified: set[tuple[str, str]] = set()  # (path, sha256) of the files whose content this process has checked


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or not path.parts or ".." in path.parts or not file.isprintable():
        raise ValueError("a path inside the data set")
    return file


@dataclass(frozen=True)
class FileEntry:
    """A file of the data set: path relative to its root, size in bytes, sha256 in hexadecimal."""

    file: Annotated[str, AfterValidator(_inside)]
    bytes: Annotated[int, Field(ge=0, lt=1 << 62)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def open_regular(path: str | Path) -> io.BufferedReader:
    """The file at `path`, open for reading. OSError where it is not a regular file: a pipe may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(descriptor, "rb")


def size_fault(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with the size of the file at `path`; None where it is as the index says."""
    try:
        found = path.stat()
    except OSError:
        return f"missing; the index expects {entry.bytes} bytes"
    if not stat.S_ISREG(found.st_mode):
        return f"not a regular file; the index expects {entry.bytes} bytes"
    size = found.st_size
    if size == entry.bytes:
        return None
    return f"{'truncated' if size < entry.bytes else 'changed'}: found {size} bytes, expected {entry.bytes}"


def checksum_fault(path: Path, entry: FileEntry, *, in_full: bool = False) -> str | None:
    """What is wrong with the content of the file at `path`; None where its sha256 is as the index says."""
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        return f"not readable: {error.strerror}"
    if sha256 == entry.sha256:
        return None
    found, expected = (digest if in_full else f"{digest[:16]}..." for digest in (sha256, entry.sha256))
    return f"wrong checksum: found sha256 {found}, expected {expected}"


def check_size(path: Path, entry: FileEntry) -> None:
    """Raise DataError where the file is missing or has another size than the index says."""
    if fault := size_fault(path, entry):
        raise DataError(f"{path}: {fault}")


def verify(path: Path, entry: FileEntry) -> None:
    """Compare a file with the index: its size always, its checksum once per process.

    Raises:
        DataError: they differ, also at the last of several attempts.
    """
    fault = None
    for _ in attempts():
        fault = size_fault(path, entry)
        if fault is None and not is_verified(path, entry):
            fault = checksum_fault(path, entry)
        if fault is None:
            mark_verified(path, entry)
            return
    raise DataError(f"{path}: {fault}")


def is_verified(path: Path, entry: FileEntry) -> bool:
    """Whether this process has already found the content of the file at `path` as the index says."""
    return (os.path.abspath(path), entry.sha256) in _verified


def mark_verified(path: Path, entry: FileEntry) -> None:
    """Remember that the content of the file at `path` is as the index says."""
    _verified.add((os.path.abspath(path), entry.sha256))
