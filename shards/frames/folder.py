"""The folder that frame features are written to: one `ID.npy` per video, as an import takes them.

    ID.npy         float16 [m, V]; written beside and moved there when it is whole
    frames.json    how they were made: encoder, frames, sampling
    skipped.csv    file, reason: a row for each video that could not be read, added when it is met

A kill at any point leaves a folder that can be continued: a video is done when its file or its row is there.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from shards.errors import DataError
from shards.format.partial import PartialPath

SETTINGS, SKIPPED = "frames.json", "skipped.csv"
_HEAD = ("file", "reason")


class FeatureFolder:
    """A folder of features, held by this process alone until it is closed.

    skipped  reason by file, of the videos that could not be read
    """

    def __init__(self, path: Path, settings: Mapping[str, str | int], resume: bool):
        """Make the folder, or with `resume` continue what is there.

        Raises:
            DataError: it is there without `resume`, was made otherwise, or another process writes it.
        """
        self.path = path
        if path.exists() and not resume:
            raise DataError(f"{path}: exists already; --resume continues it, or choose another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None
        with ExitStack() as held:
            held.callback(os.close, folder)  # which also gives up the lock
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"{path}: another process is writing it") from None
            for left in path.glob("*.partial-*"):  # of a process that was killed
                left.unlink()
            self._check_settings(dict(settings))
            self.skipped = self._read_skipped()
            self._done = {file.stem for file in path.glob("*.npy")}
            self._held = held.pop_all()

    def __enter__(self) -> FeatureFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def __len__(self) -> int:
        """Videos that have features."""
        return len(self._done)

    def __contains__(self, video: str) -> bool:
        """Whether a video has features."""
        return video in self._done

    def add(self, video: str, features: np.ndarray) -> None:
        """Write the features of a video."""
        self._write(f"{video}.npy", _npy(features))
        self._done.add(video)

    def skip(self, file: str, reason: str) -> None:
        """Record that a video could not be read."""
        path = self.path / SKIPPED
        rows = [] if path.exists() else [_HEAD]
        try:
            with open(path, "ab", buffering=0) as out:
                out.write(_csv([*rows, (file, reason)]))  # one write: a row is there or is not
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None
        self.skipped[file] = reason

    def _check_settings(self, settings: dict[str, str | int]) -> None:
        path = self.path / SETTINGS
        if not path.exists():
            if next(self.path.glob("*.npy"), None):
                raise DataError(
                    f"{self.path}: found features without {SETTINGS}, expected those of this command"
                )
            self._write(SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable: {error}") from None
        if found != settings:
            made = ", ".join(f"{key} {value}" for key, value in settings.items())
            raise DataError(f"{path}: found features made otherwise ({found}), expected {made}")

    def _read_skipped(self) -> dict[str, str]:
        path = self.path / SKIPPED
        if not path.exists():
            return {}
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8", "surrogateescape"))))
        if any(len(row) != len(_HEAD) for row in rows):
            raise DataError(f"{path}: found another table, expected the columns {', '.join(_HEAD)}")
        return dict(row for row in rows[1:])

    def _write(self, name: str, content: bytes) -> None:
        try:
            with PartialPath(self.path / name) as partial:
                partial.path.write_bytes(content)
                partial.commit()
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be written: {error.strerror}") from None


def _npy(features: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, features, allow_pickle=False)
    return out.getvalue()


def _csv(rows: list[tuple[str, str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "surrogateescape")
