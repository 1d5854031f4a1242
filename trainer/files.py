"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import Unwritable, UserError

PathLike = str | Path

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# How torch.save says that it could not write.
TORCH_ERRORS = ("PytorchStreamWriter", "inline_container.cc", "iostream error")
TRIAL_BYTES = 2**20


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


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within, a disk that takes no more is told from other errors.

    Raises:
        Unwritable: the disk is full or read-only, a quota or a limit is reached, or the disk fails.
    """
    try:
        yield
    except (OSError, RuntimeError, UserError) as error:
        # `write_text` has made a line of the error already, which names its file.
        reason = _unwritable(error.__cause__ if isinstance(error, UserError) else error, folder)
        if not reason:
            raise
        raise Unwritable(f"{folder} cannot be written: {reason}") from error


def _unwritable(error: BaseException | None, folder: Path) -> str:
    """Why the disk takes no more, if that is what an error is about; else nothing."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in DISK_ERRORS else ""
    if not any(words in str(error) for words in TORCH_ERRORS):
        return ""
    try:  # torch does not say why it could not write
        with replacing(folder / "trial") as trial:
            trial.write_bytes(bytes(TRIAL_BYTES))
        (folder / "trial").unlink()
    except OSError as found:
        return os.strerror(found.errno or errno.EIO)
    return "a file was written only in part"


def remove_partials(folder: Path) -> None:
    """Remove what killed processes have left of files that they were replacing; nobody may be writing."""
    for path in folder.glob(".*.partial-*"):
        path.unlink(missing_ok=True)


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
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_secret(path: PathLike, text: str) -> None:
    """As `write_text`, for a file that only this user can read."""
    try:
        with replacing(path) as partial:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, text.encode())
            os.close(descriptor)
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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def set_aside(path: PathLike) -> Path:
    """Rename a damaged file or folder to `damaged-NAME`, numbered where there is one; return that path."""
    path = Path(path)
    stem = path.with_name(f"damaged-{path.name}")
    names = [stem, *(stem.with_name(f"{stem.name}-{number}") for number in range(2, 1000))]
    aside = next(name for name in names if not name.exists())
    os.rename(path, aside)
    return aside
