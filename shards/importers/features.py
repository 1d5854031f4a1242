"""Frame features made elsewhere, brought to one shape `[M, V]` per video.

A source is one of
    a folder      one `ID.npy` per video: [frames, V], or a flat [V] (one frame; with `frames` = F: F frames
                  of V / F)
    a `.npy`      [videos, M, V] or [videos, V], with `ids`: a text file of one id per line, a `.npy` of ids,
                  or the word `row+1`: row j belongs to id j+1
    an `.npz`     `item_id` [videos], `features` as above, and optionally `length` [videos], the real frames
float16 stays as it is, all else becomes float32. M is the longest video's frames; shorter ones are padded
with zeros. A video whose features are all zeros, or whose length is 0, counts as one without features. Stacks
are memory-mapped; an `.npz` is unpacked into the scratch directory first.
"""

from __future__ import annotations

import lzma
import shutil
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shards.errors import DataError, nearest
from shards.format.columns import Ids
from shards.format.index import Features
from shards.format.info import format_size
from shards.format.npy import open_array

BY_ROW = "row+1"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class FeatureSource(ABC):
    """Features of those items of a log that a source has.

    shape   M, V, dtype
    counts  what was left out, in numbers; complete after `videos`
    rows    item rows (from 1) that the source has, ascending
    """

    shape: Features
    counts: dict[str, int]
    rows: Sequence[int]

    @abstractmethod
    def load(self, row: int) -> np.ndarray:
        """[frames, V]: the real frames of an item row."""

    @abstractmethod
    def name(self, row: int) -> str:
        """Where the features of an item row are, for error messages."""

    def videos(self) -> Iterator[tuple[int, np.ndarray, int]]:
        """(item row, frames [M, V] zero past the count, real frames) in the order of the items.

        Raises:
            DataError: NaN or infinity; the message names file, video and frame.
        """
        self.counts["videos_with_zero_features"] = 0
        for row in self.rows:
            raw = self.load(row)
            with np.errstate(over="ignore"):  # refused below, as an infinity
                real = np.asarray(raw, dtype=self.shape.dtype)
            if not real.any():
                self.counts["videos_with_zero_features"] += 1
                continue
            wrong = ~np.isfinite(real).all(axis=1)
            if wrong.any():
                at = int(np.argmax(wrong))
                value = real[at][~np.isfinite(real[at])][0]
                raise DataError(f"{self.name(row)}, frame {at}: found {value}, expected finite numbers")
            frames = np.zeros((self.shape.frames, self.shape.width), self.shape.dtype)
            frames[: len(real)] = real
            yield row, frames, len(real)


def open_features(
    path: str | Path, item_ids: Ids, *, ids: str | None, frames: int, scratch: Path
) -> FeatureSource:
    """The features at `path` for `item_ids` [I] (element j is item j+1).

    Raises:
        DataError: shapes or ids do not fit.
    """
    path = Path(path)
    source: FeatureSource
    if path.is_dir():
        source = _Folder(path, item_ids, frames)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder of features")
    elif path.suffix == ".npz":
        source = _open_archive(path, item_ids, frames, scratch)
    elif path.suffix == ".npy":
        if ids is None:
            raise DataError(
                f"{path}: which row is which video? name a list of ids (--feature-ids PATH or {BY_ROW})"
            )
        stack = _open_stack(path)
        known = np.arange(1, len(stack) + 1) if ids == BY_ROW else _read_ids(Path(ids))
        source = _Stack(path, item_ids, known, stack, None, frames)
    else:
        raise DataError(f"{path}: found {path.suffix or 'no suffix'!r}, expected a folder, .npy or .npz")
    source.counts["videos_missing_in_features"] = len(item_ids) - len(source.rows)
    return source


class _Folder(FeatureSource):
    """One file per video."""

    def __init__(self, path: Path, item_ids: Ids, frames: int):
        files = {file.stem: file for file in path.glob("*.npy")}
        self._frames = frames
        self._files: dict[int, Path] = {}
        most, width, half, example = 0, 0, True, path
        for row, item in enumerate(_texts(item_ids), 1):
            file = files.get(item)
            if file is None:
                continue
            array = _shaped(_open(file), frames, file)
            if not self._files:
                width, example = array.shape[1], file
            if array.shape[1] != width:
                difference = f"found width {array.shape[1]}, expected {width} as in {example.name}"
                raise DataError(f"{file}: video {item}: {difference}")
            most, half = max(most, array.shape[0]), half and array.dtype == np.float16
            self._files[row] = file
        if not self._files:
            raise DataError(f"{path}: {_none_matches(item_ids, list(files))}")
        self.rows = list(self._files)
        self.shape = Features(most, width, "float16" if half else "float32")
        self.counts = {"features_not_in_log": len(files) - len(self._files)}

    def load(self, row: int) -> np.ndarray:
        return _shaped(_open(self._files[row]), self._frames, self._files[row])

    def name(self, row: int) -> str:
        return f"{self._files[row]}: video {self._files[row].stem}"


class _Stack(FeatureSource):
    """All videos in one array `stack`, the real frames of each in `length`; `ids` says which is which."""

    def __init__(
        self, path: Path, item_ids: Ids, ids: Ids, stack: np.ndarray, length: np.ndarray | None, frames: int
    ):
        if len(ids) != len(stack):
            raise DataError(f"{path}: found {len(stack)} videos for {len(ids)} ids, expected as many")
        most, width = _shaped(stack[0], frames, path).shape
        if length is not None:
            _check_lengths(path, ids, length, len(stack), most)
        row_of: dict[str, int] = {}
        for row, item in enumerate(_texts(ids)):
            if row_of.setdefault(item, row) != row:
                raise DataError(f"{path}: video {item} is there twice, in rows {row_of[item]} and {row}")
        self._stack_rows = {
            row: row_of[item] for row, item in enumerate(_texts(item_ids), 1) if item in row_of
        }
        if not self._stack_rows:
            raise DataError(f"{path}: {_none_matches(item_ids, list(row_of))}")
        self._path, self._stack, self._length, self._frames = path, stack, length, frames
        self.rows = list(self._stack_rows)
        self.shape = Features(most, width, "float16" if stack.dtype == np.float16 else "float32")
        self.counts = {"features_not_in_log": len(stack) - len(self.rows)}

    def load(self, row: int) -> np.ndarray:
        at = self._stack_rows[row]
        array = _shaped(self._stack[at], self._frames, self._path)
        return array if self._length is None else array[: int(self._length[at])]

    def name(self, row: int) -> str:
        return f"{self._path}: row {self._stack_rows[row]}"


def _check_lengths(path: Path, ids: Ids, length: np.ndarray, videos: int, most: int) -> None:
    """Raise DataError unless `length` holds numbers of frames, 0..`most`, of as many videos."""
    if length.shape != (videos,):
        fault = f"shape {list(length.shape)}"
    else:
        with np.errstate(invalid="ignore"):  # NaN is neither
            wrong = np.flatnonzero(~((length >= 0) & (length <= most) & (length == np.floor(length))))
        if not len(wrong):
            return
        fault = f"length {length[wrong[0]]} for video {ids[int(wrong[0])]}"
    raise DataError(f"{path}: found {fault}, expected {videos} lengths in 0..{most}")


def _open_archive(path: Path, item_ids: Ids, frames: int, scratch: Path) -> FeatureSource:
    unpacked = _unpack(path, scratch)
    length = _open(unpacked["length"]) if "length" in unpacked else None
    ids, stack = _open_ids(unpacked["item_id"]), _open_stack(unpacked["features"])
    return _Stack(path, item_ids, ids, stack, length, frames)


def _unpack(path: Path, scratch: Path) -> dict[str, Path]:
    """The arrays of an `.npz` as files in `scratch`, by name.

    Raises:
        DataError: one is missing, or the archive is damaged, encrypted or larger than the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
            for name in ("item_id", "features"):
                if name not in names:
                    raise DataError(f"{path}: no array {name!r}; {nearest(name, names)}")
            chosen = {
                name: members[f"{name}.npy"] for name in ("item_id", "features", "length") if name in names
            }
            needed = sum(member.file_size for member in chosen.values())
            free = shutil.disk_usage(scratch).free
            if needed > free:
                raise DataError(
                    f"{path}: found {format_size(needed)} when unpacked, expected at most the "
                    f"{format_size(free)} that are free in {scratch}; --spill names another folder"
                )
            unpacked: dict[str, Path] = {}
            for name, member in chosen.items():
                unpacked[name] = scratch / f"{name}.npy"
                with archive.open(member) as source, open(unpacked[name], "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            return unpacked
    except DataError:
        raise
    # RuntimeError: encrypted, or a compression that Python does not know.
    except (*_UNREADABLE, OSError, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: not readable as .npz: {error}") from None


def _shaped(array: np.ndarray, frames: int, file: Path) -> np.ndarray:
    """One video as [frames, V]."""
    if array.ndim == 1:
        parts = frames or 1
        if not array.size or array.size % parts:
            raise DataError(f"{file}: found a vector of {array.size}, expected a multiple of {parts} frames")
        return array.reshape(parts, -1)
    if array.ndim != 2 or not array.size:
        raise DataError(f"{file}: found shape {list(array.shape)} for a video, expected [frames, width]")
    return array


def _open(path: Path) -> np.ndarray:
    """An array of features."""
    return open_array(path, "fiu")


def _open_stack(path: Path) -> np.ndarray:
    """An array of the features of many videos."""
    stack = _open(path)
    if stack.ndim not in (2, 3) or not stack.size:
        shape = f"shape {list(stack.shape)}"
        raise DataError(f"{path}: found {shape}, expected [videos, frames, width] or [videos, width]")
    return stack


def _open_ids(path: Path) -> np.ndarray:
    """An array of ids: [videos], integers or text."""
    ids = open_array(path, "iuU")
    if ids.ndim != 1:
        raise DataError(f"{path}: found ids of shape {list(ids.shape)}, expected [videos]")
    return ids


def _read_ids(path: Path) -> Ids:
    if not path.is_file():
        raise DataError(f"--feature-ids {path}: no such file")
    if path.suffix == ".npy":
        return _open_ids(path)
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        raise DataError(f"--feature-ids {path}: not readable: {reason}") from None


def _texts(ids: Ids) -> list[str]:
    """Ids as text: 7 and "7" are the same video."""
    return [str(item) for item in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]


def _none_matches(item_ids: Ids, feature_ids: list[str]) -> str:
    known, sought = f"such as {sorted(feature_ids)[0]!r}" if feature_ids else "none", _texts(item_ids[:1])[0]
    return f"found features of no video in the log: it has ids such as {sought!r}, the features {known}"
