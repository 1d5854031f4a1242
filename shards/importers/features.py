"""Frame features made elsewhere, brought to one shape `[M, V]` a video.

A source is one of
    a folder      `ID.npy` a video: [frames, V], or a flat [V] (one frame; with `frames` = F: F frames of V /
                  F)
    a `.npy`      [videos, M, V] or [videos, V], with `ids`: a text file of one id a line, a `.npy` of ids, or
                  the word `row+1`: row j belongs to id j+1
    an `.npz`     `item_id` [videos], `features` as above, and optionally `length` [videos], the real frames
float16 stays as it is, all else becomes float32. M is the longest video's frames; shorter ones are padded
with zeros. A video whose features are all zeros, or whose length is 0, counts as one without features. Stacks
are memory-mapped; an `.npz` is unpacked into the scratch directory first.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shards.errors import DataError, nearest
from shards.format.index import Features

BY_ROW = "row+1"


class Content:
    """Features of those of `item_ids` that a source has. `shape` says M, V, dtype; `counts` is complete after
    `videos`.

    places  item row (from 1) -> what `load` takes
    load    place -> [frames, V] array, only real frames
    """

    def __init__(
        self,
        path: Path,
        shape: Features,
        places: dict[int, Path | int],
        load: Callable[[Path | int], np.ndarray],
        counts: dict[str, int],
    ):
        self.path, self.shape, self.places, self.load, self.counts = path, shape, places, load, counts

    def videos(self) -> Iterator[tuple[int, np.ndarray, int]]:
        """(item row, frames [M, V] zero past the count, real frames) in the order of the items. DataError
        naming file, video and frame at NaN or infinity."""
        self.counts["videos_with_zero_features"] = 0
        for row, place in self.places.items():
            raw = self.load(place)
            with np.errstate(over="ignore"):  # told below, as an infinity
                real = np.asarray(raw, dtype=self.shape.dtype)
            if not real.any():
                self.counts["videos_with_zero_features"] += 1
                continue
            wrong = ~np.isfinite(real).all(axis=1)
            if wrong.any():
                at = int(np.argmax(wrong))
                value = real[at][~np.isfinite(real[at])][0]
                raise DataError(f"{self._name(place)}, frame {at}: found {value}, expected finite numbers")
            frames = np.zeros((self.shape.frames, self.shape.width), self.shape.dtype)
            frames[: len(real)] = real
            yield row, frames, len(real)

    def _name(self, place: Path | int) -> str:
        return f"{place}: video {place.stem}" if isinstance(place, Path) else f"{self.path}: row {place}"


def open_content(
    path: str | Path, item_ids: np.ndarray | Sequence[str], *, ids: str | None, frames: int, scratch: Path
) -> Content:
    """The features at `path` for `item_ids` [I] (element j is item j+1). DataError where shapes or ids do not
    fit."""
    path = Path(path)
    if path.is_dir():
        content = _folder(path, item_ids, frames)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder of features")
    elif path.suffix == ".npz":
        content = _archive(path, item_ids, frames, scratch)
    elif path.suffix == ".npy":
        if ids is None:
            raise DataError(
                f"{path}: which row is which video? name a list of ids (--feature-ids PATH or {BY_ROW})"
            )
        stack = _open(path)
        known = np.arange(1, len(stack) + 1) if ids == BY_ROW else _read_ids(Path(ids))
        content = _stack(path, item_ids, known, stack, None, frames)
    else:
        raise DataError(f"{path}: found {path.suffix or 'no suffix'!r}, expected a folder, .npy or .npz")
    content.counts["videos_missing_in_features"] = len(item_ids) - len(content.places)
    return content


def _folder(path: Path, item_ids: np.ndarray | Sequence[str], frames: int) -> Content:
    held = {file.stem: file for file in path.glob("*.npy")}
    places: dict[int, Path | int] = {}
    most, width, half, example = 0, 0, True, path
    for row, item in enumerate(_texts(item_ids), 1):
        file = held.get(item)
        if file is None:
            continue
        array = _shaped(_open(file), frames, file)
        if not places:
            width, example = array.shape[1], file
        if array.shape[1] != width:
            found = f"width {array.shape[1]}, expected {width} as in {example.name}"
            raise DataError(f"{file}: video {item}: found {found}")
        most, half = max(most, array.shape[0]), half and array.dtype == np.float16
        places[row] = file
    if not places:
        raise DataError(f"{path}: {_none_matches(item_ids, list(held))}")
    counts = {"features_not_in_log": len(held) - len(places)}
    shape = Features(most, width, "float16" if half else "float32")
    return Content(path, shape, places, lambda file: _shaped(_open(file), frames, file), counts)


def _archive(path: Path, item_ids: np.ndarray | Sequence[str], frames: int, scratch: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in ("item_id", "features"):
                if name not in names:
                    raise DataError(f"{path}: no array {name!r}; {nearest(name, names)}")
            unpacked = {}
            for name in ("item_id", "features", "length"):
                if name in names:
                    unpacked[name] = scratch / f"{name}.npy"
                    with archive.open(f"{name}.npy") as source, open(unpacked[name], "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path}: not readable as .npz: {error}") from None
    ids, stack = (_open(unpacked[name]) for name in ("item_id", "features"))
    length = _open(unpacked["length"]) if "length" in unpacked else None
    return _stack(path, item_ids, ids, stack, length, frames)


def _stack(
    path: Path,
    item_ids: np.ndarray | Sequence[str],
    ids: np.ndarray | list[str],
    stack: np.ndarray,
    length: np.ndarray | None,
    frames: int,
) -> Content:
    if len(ids) != len(stack):
        raise DataError(f"{path}: found {len(stack)} videos for {len(ids)} ids, expected as many")
    if not len(stack):
        raise DataError(f"{path}: holds no videos")
    shape = _shaped(stack[0], frames, path).shape
    if length is not None:
        wrong = np.flatnonzero((length < 0) | (length > shape[0])) if length.shape == (len(stack),) else [0]
        if len(wrong):
            at = int(wrong[0])
            found = (
                f"length {length[at]} for video {ids[at]}" if length.ndim == 1 else f"shape {length.shape}"
            )
            raise DataError(f"{path}: {found}, expected {len(stack)} lengths in 0..{shape[0]}")
    row_of: dict[str, int] = {}
    for row, item in enumerate(_texts(ids)):
        if row_of.setdefault(item, row) != row:
            raise DataError(f"{path}: video {item} is there twice, in rows {row_of[item]} and {row}")
    found = {row: row_of[item] for row, item in enumerate(_texts(item_ids), 1) if item in row_of}
    if not found:
        raise DataError(f"{path}: {_none_matches(item_ids, list(row_of))}")

    def load(row: Path | int) -> np.ndarray:
        array = _shaped(stack[row], frames, path)
        return array if length is None else array[: int(length[row])]

    dtype = "float16" if stack.dtype == np.float16 else "float32"
    counts = {"features_not_in_log": len(stack) - len(found)}
    return Content(path, Features(*shape, dtype), found, load, counts)


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
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not readable as .npy: {error}") from None
    if array.dtype.kind not in "fiuU":
        raise DataError(f"{path}: found {array.dtype}, expected numbers (ids may be text)")
    return array


def _read_ids(path: Path) -> np.ndarray | list[str]:
    if not path.is_file():
        raise DataError(f"--feature-ids {path}: no such file")
    if path.suffix == ".npy":
        return _open(path)
    return path.read_text(encoding="utf-8-sig").split()


def _texts(ids: np.ndarray | Sequence[str]) -> list[str]:
    """Ids as text: 7 and "7" are the same video."""
    return [str(item) for item in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]


def _none_matches(item_ids: np.ndarray | Sequence[str], held: list[str]) -> str:
    seen, sought = f"such as {sorted(held)[0]!r}" if held else "none", _texts(item_ids[:1])[0]
    return f"found features of no video in the log: it has ids such as {sought!r}, the features {seen}"
