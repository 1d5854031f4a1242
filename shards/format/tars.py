"""Files that are written once and know their size and checksum at the end, and numbered tars of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from webdataset import TarWriter

from shards.errors import DataError


class HashingFile:
    """A file that is written once, front to back: counts, hashes, and syncs at close. DataError where it
    cannot."""

    def __init__(self, path: Path):
        self.path, self.size, self.sha256 = path, 0, hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def listed(self, root: Path) -> dict[str, Any]:
        """This file as the index lists it."""
        file = self.path.relative_to(root).as_posix()
        return {"file": file, "bytes": self.size, "sha256": self.sha256.hexdigest()}

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TarSet:
    """The numbered tars of one family. `entry` collects what the index says of the open one."""

    def __init__(self, root: Path, family: str):
        self.root, self.family = root, family
        self.entries: list[dict[str, Any]] = []
        self.tar: HashingFile | None = None
        self.payload = 0  # bytes of its fields
        self.entry: dict[str, Any] = {}

    def start(self, **entry: Any) -> None:
        (self.root / self.family).mkdir(exist_ok=True)
        self.tar = HashingFile(self.root / self.family / f"{self.family}-{len(self.entries):06d}.tar")
        self._writer = TarWriter(self.tar, user="", group="", mtime=0)
        self.entry, self.payload = entry, 0

    def write(self, sample: dict[str, Any]) -> None:
        self.payload += self._writer.write(sample)

    def finish(self) -> None:
        if self.tar is not None:
            self._writer.close()
            self.tar.close()
            self.entries.append({**self.tar.listed(self.root), **self.entry})
            self.tar = None
