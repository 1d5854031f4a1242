"""Files that are hashed while they are written, and tars of records made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from webdataset import TarWriter

from shards.errors import DataError
from shards.format.files import FileEntry


class HashingFile:
    """A file that is written once, front to back, counted and hashed on the way.

    Raises:
        DataError: at a write that fails.
    """

    def __init__(self, path: Path):
        self.path, self.size, self._sha256 = path, 0, hashlib.sha256()
        # "x": what is there may be a link to a file of another data set, which must not change.
        self._file = open(path, "xb")  # noqa: SIM115 (closed by close)

    def write(self, data: bytes | memoryview) -> int:
        """Append `data` and return its length."""
        try:
            self._file.write(data)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Pass what is buffered to the operating system."""
        self._file.flush()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def close(self) -> None:
        """Close the file; once more does nothing."""
        self._file.close()

    def entry(self, root: Path) -> FileEntry:
        """This file as the index of the data set at `root` lists it."""
        return FileEntry(self.path.relative_to(root).as_posix(), self.size, self._sha256.hexdigest())

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_tar(root: Path, family: str, number: int) -> Path:
    """The path of tar `number` of one family of records below `root`, whose folder is there."""
    (root / family).mkdir(exist_ok=True)
    return root / family / f"{family}-{number:06d}.tar"


class Tar:
    """A numbered tar of one family of records, being written: `FAMILY/FAMILY-000000.tar` below `root`."""

    def __init__(self, root: Path, family: str, number: int):
        self.payload = 0  # bytes of the records' fields
        self._root = root
        self._file = HashingFile(new_tar(root, family, number))
        self._writer = TarWriter(self._file, user="", group="", mtime=0)

    def write(self, sample: dict[str, Any]) -> None:
        """Append a record: `__key__` and its fields, which WebDataset encodes by their suffix."""
        self.payload += self._writer.write(sample)

    def close(self) -> FileEntry:
        """Finish the tar and return it as the index lists it."""
        self._writer.close()
        self._file.close()
        return self._file.entry(self._root)
