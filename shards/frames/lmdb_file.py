"""MicroLens's LMDB of frames: the id of a video is its key, five frames in float32 are its value.

The values are pickles of an object whose only content is those numbers' bytes. Nothing is unpickled here: the
pickle is read opcode by opcode, which runs none of it, and its one byte string of the right size is taken. A
value that is the bytes themselves is read, too. By which mean and deviation the numbers were normalised is
nowhere recorded: each video is stretched over what a picture has, its darkest number black, its brightest
white.
"""

from __future__ import annotations

import pickletools
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DataError

SIDE = 224
FRAME_BYTES = 3 * SIDE * SIDE * 4
_OWN_KEYS = frozenset(("__keys__", "__len__"))  # of who wrote the file, not of videos


def is_lmdb(path: Path) -> bool:
    """Whether there is an LMDB at `path`, a folder or a single file."""
    return (path / "data.mdb").is_file() or (path.suffix == ".lmdb" and path.is_file())


def read_keys(path: Path) -> list[str]:
    """The ids of the videos, ascending.

    Raises:
        DataError: it is not readable, or a key cannot be the name of a file.
    """
    with _open(path).begin() as reading:
        keys = [key.decode("utf-8", "replace") for key in reading.cursor().iternext(values=False)]
    videos = sorted(key for key in keys if key not in _OWN_KEYS)
    for key in videos:
        if Path(key).name != key or key.startswith(".") or not key.isprintable():
            raise DataError(f"{path}: found the key {key[:60]!r}, expected the id of a video")
    return videos


def read_pictures(path: Path, key: str) -> np.ndarray:
    """uint8 [frames, 224, 224, 3]: the frames under `key`.

    Raises:
        ValueError: they are not what MicroLens writes.
    """
    with _open(path).begin() as reading:
        content = _numbers(reading.get(key.encode()) or b"")
    values = np.frombuffer(content, "<f4").reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("found NaN or infinity, expected finite numbers")
    scaled = (values - low) * (255 / max(high - low, np.finfo(np.float32).tiny))
    pictures: np.ndarray = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return pictures


def _numbers(value: bytes) -> bytes:
    """The bytes of the frames in a value."""
    if value and len(value) % FRAME_BYTES == 0:
        return value
    try:
        parts = [part for _, part, _ in pickletools.genops(value) if isinstance(part, bytes)]
    except Exception as error:  # whatever a damaged pickle makes of its parser
        raise ValueError(f"not readable as a pickle: {error}") from None
    frames = [part for part in parts if part and len(part) % FRAME_BYTES == 0]
    if len(frames) != 1:
        raise ValueError(f"found {len(value)} bytes, expected frames of {FRAME_BYTES} bytes each")
    return frames[0]


@lru_cache(maxsize=1)
def _open(path: Path) -> Any:
    """The database, for reading, once per process."""
    try:
        import lmdb
    except ImportError:
        raise DataError(f'{path}: needs lmdb: pip install "mealrec[frames]"') from None
    try:
        return lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: not readable as an LMDB: {error}") from None
