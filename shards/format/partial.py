"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shards.errors import DataError


class PartialPath:
    """A file or folder that is written beside its target and moved there when it is complete.

    Write to `path`, then `commit`. Leaving the context without `commit` removes what was written. A process
    that is killed leaves `TARGET.partial-<pid>`, which nothing reads.
    """

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(f"{target.name}.partial-{os.getpid()}")

    def __enter__(self) -> PartialPath:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def make_folder(self) -> None:
        """Make `path` an empty folder."""
        self.discard()  # left by a process that was killed and had the same number
        self.path.mkdir(parents=True)

    def commit(self) -> None:
        """Sync what was written to disk and move it to the target."""
        for path in (*_below(self.path), self.path):
            _sync(path)
        os.replace(self.path, self.target)
        _sync(self.target.parent)

    def discard(self) -> None:
        """Remove what was written, if it is there."""
        _remove(self.path)

    def discard_all(self) -> None:
        """Remove what any process has written of this target. Call it under a lock, when no other writes."""
        for path in self.target.parent.glob(f"{self.target.name}.partial-*"):
            _remove(path)


def link_or_copy(source: Path, target: Path) -> None:
    """The file `source` under a second name, without room of its own; a copy where that cannot be.

    It cannot be on another file system, on one without links, and for files of other users.

    Raises:
        DataError: it cannot be copied either.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror}") from None


def _below(folder: Path) -> Iterator[Path]:
    return folder.rglob("*") if folder.is_dir() else iter(())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
