"""MicroLens's LMDB of frames is read without unpickling anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

lmdb = pytest.importorskip("lmdb")
pytest.importorskip("av")
from shards.errors import DataError  # noqa: E402
from shards.frames.clips import find_clips  # noqa: E402
from shards.frames.picture import Square  # noqa: E402
from shards.frames.read import Sampling, Unreadable, read_clip  # noqa: E402


class LMDB_VIDEO:  # noqa: N801 (the name in MicroLens's own code)
    """What MicroLens pickles."""

    def __init__(self, video: np.ndarray):
        self.video = video.tobytes()


class Harm:
    """Removes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.remove, (str(self.file),)


def write(path: Path, values: dict[str, bytes]) -> Path:
    with lmdb.open(str(path), subdir=False, map_size=1 << 26) as out, out.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key.encode(), value)
    return path


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Pictures [5, 224, 224, 3] with all of 0 to 255, and the same normalised [5, 3, 224, 224]."""
    rng = np.random.default_rng(0)
    pictures = np.kron(rng.integers(0, 256, (5, 7, 7, 3)), np.ones((1, 32, 32, 1))).astype(np.uint8)
    pictures[0, :32, :32], pictures[1, :32, :32] = 0, 255
    return pictures, ((pictures.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5).astype(np.float32)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_frames(tmp_path: Path, protocol: int) -> None:
    pictures, normalised = draw()
    pickled = pickle.dumps(LMDB_VIDEO(normalised), protocol)
    values = {
        "7": pickled,
        "12": normalised.tobytes(),
        "__len__": pickle.dumps(2),
        "__keys__": pickle.dumps([b"7"]),
    }
    found = find_clips(write(tmp_path / "frames.lmdb", values), tmp_path / "out")
    assert [clip.id for clip in found.clips] == ["12", "7"]
    for clip in found.clips:
        read = read_clip(clip, Sampling(5), Square(224, 224))
        assert np.abs(read.astype(int) - pictures).max() <= 1
        few = read_clip(clip, Sampling(2), Square(224, 224))
        np.testing.assert_array_equal(few, read[[1, 3]])


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    path = write(tmp_path / "harm.lmdb", {"7": pickle.dumps(Harm(kept)), "8": b"\x80\x04broken", "9": b""})
    for clip in find_clips(path, tmp_path / "out").clips:
        read = read_clip(clip, Sampling(5), Square(224, 224))
        assert isinstance(read, Unreadable) and "\n" not in read.reason
    assert kept.exists()


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found the key '../../x', expected the id of a video"):
        find_clips(write(tmp_path / "keys.lmdb", {"../../x": b""}), tmp_path / "out")


def test_what_is_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "no.lmdb").write_bytes(b"nothing" * 2000)
    with pytest.raises(DataError, match="not readable as an LMDB"):
        find_clips(tmp_path / "no.lmdb", tmp_path / "out")
