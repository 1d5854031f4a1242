"""Which clips there are below a folder, or in an LMDB, and their ids."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shards.errors import DataError
from shards.frames.lmdb_file import is_lmdb, read_keys

_VIDEO = re.compile(r"\.(3gp|avi|flv|gif|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|mxf|ogv|ts|vob|webm|wmv)", re.I)
_PICTURE = re.compile(r"\.(bmp|jpeg|jpg|png|webp)", re.I)
_NUMBERED = re.compile(r"(.+)-(\d+)")  # MicroLens's frames: ID-1.jpg to ID-5.jpg


Kind = Literal["video", "pictures", "lmdb"]


@dataclass(frozen=True)
class Clip:
    """The frames of one video of the log.

    id      of the video in the log: the name of its file without the suffix, or its key
    kind    what its files are: a video, its frames one by one in order, or the LMDB that holds them
    """

    id: str
    kind: Kind
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Found:
    """Clips in the order of their ids, and how many other files there are, which are left alone."""

    clips: tuple[Clip, ...]
    others: int = 0


def find_clips(path: Path, out: Path) -> Found:
    """The clips below the folder `path`, the folder `out` and what is hidden left out; or those of an LMDB.

    `ID.mp4` and the like are videos; `ID-1.jpg`, `ID-2.jpg`, ... are the frames of one; `ID.jpg` is a single
    frame.

    Raises:
        DataError: there are none, or two of the same id.
    """
    if is_lmdb(path):
        found = Found(tuple(Clip(key, "lmdb", (path,)) for key in read_keys(path)))
    elif path.is_dir():
        found = _find_below(path, out)
    elif path.exists():
        raise DataError(f"{path}: found a file, expected a folder of videos or pictures, or an LMDB")
    else:
        raise DataError(f"{path}: no such folder of videos")
    if not found.clips:
        expected = "videos such as ID.mp4 or pictures such as ID-1.jpg"
        raise DataError(f"{path}: found {found.others} other files, expected {expected}")
    return found


def _find_below(folder: Path, out: Path) -> Found:
    kinds: dict[str, Kind] = {}
    files: dict[str, dict[int, Path]] = {}  # by id and number
    others = 0
    for file in _files(folder, out.absolute()):
        picture, numbered = _PICTURE.fullmatch(file.suffix), _NUMBERED.fullmatch(file.stem)
        if not picture and not _VIDEO.fullmatch(file.suffix):
            others += 1
            continue
        key, number = (numbered[1], int(numbered[2])) if picture and numbered else (file.stem, 0)
        kind: Kind = "pictures" if picture else "video"
        there = files.setdefault(key, {})
        if there and (number in there or not number or 0 in there):
            other = there.get(number, next(iter(there.values())))
            raise DataError(f"{file}: found a second video of id {key!r}, expected one (the other: {other})")
        there[number], kinds[key] = file, kind
    clips = [Clip(key, kinds[key], tuple(there[at] for at in sorted(there))) for key, there in files.items()]
    return Found(tuple(sorted(clips, key=lambda clip: clip.id)), others)


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """Regular files in the order of their names: a pipe may never end."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders if name[0] != "." and (here / name).absolute() != out)
        yield from (here / name for name in sorted(names) if name[0] != "." and (here / name).is_file())
