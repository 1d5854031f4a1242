"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import UserError

PathLike = str | Path


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it at the end of the block.

    After a crash `path` holds the old content or the new, never a part. A block that fails leaves nothing.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def sync(path: PathLike) -> None:
    """Wait until the content of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: PathLike, text: str) -> None:
    """Replace a text file atomically.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def write_json(path: PathLike, value: Any) -> None:
    """As `write_text`, with `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def set_aside(path: PathLike) -> Path:
    """Rename a damaged file or folder to `damaged-NAME`, numbered where there is one; return that path."""
    path = Path(path)
    stem = path.with_name(f"damaged-{path.name}")
    names = [stem, *(stem.with_name(f"{stem.name}-{number}") for number in range(2, 1000))]
    aside = next(name for name in names if not name.exists())
    os.rename(path, aside)
    return aside
