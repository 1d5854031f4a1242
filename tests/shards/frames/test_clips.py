"""Which files are clips, and of which video."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("av")
from shards.errors import DataError  # noqa: E402
from shards.frames.clips import find_clips  # noqa: E402


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    clips = find_clips(folder, folder / "features").clips
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    return {
        clip.id: (clip.kind, [file.relative_to(folder).as_posix() for file in clip.files]) for clip in clips
    }


def test_videos_and_pictures(tmp_path: Path) -> None:
    make(
        tmp_path, "7.mp4", "in/8.MOV", "9-2.jpg", "9-10.jpg", "in/9-1.jpg", "10.png", "a-b-3.jpeg", "v-1.mkv"
    )
    make(tmp_path, "log.csv", "notes", ".hidden.mp4", ".cache/x.mp4", "features/contact.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert found(tmp_path) == {
        "7": ("video", ["7.mp4"]),
        "8": ("video", ["in/8.MOV"]),
        "9": ("pictures", ["in/9-1.jpg", "9-2.jpg", "9-10.jpg"]),
        "10": ("pictures", ["10.png"]),
        "a-b": ("pictures", ["a-b-3.jpeg"]),
        "v-1": ("video", ["v-1.mkv"]),
    }
    assert find_clips(tmp_path, tmp_path / "features").others == 2


@pytest.mark.parametrize(
    "names",
    [
        ("7.mp4", "in/7.mov"),
        ("7.jpg", "7.mp4"),
        ("7-1.jpg", "7.mp4"),
        ("7-1.jpg", "7-1.png"),
        ("7-1.jpg", "7-01.jpg"),
        ("7.jpg", "7-1.jpg"),
    ],
)
def test_two_videos_of_one_id(tmp_path: Path, names: tuple[str, str]) -> None:
    make(tmp_path, *names)
    with pytest.raises(DataError, match="found a second video of id '7', expected one") as caught:
        find_clips(tmp_path, tmp_path / "out")
    assert all(str(tmp_path / name) in str(caught.value) for name in names)


def test_nothing_to_read(tmp_path: Path) -> None:
    make(tmp_path, "log.csv")
    for path, message in (
        (tmp_path, "found 1 other files, expected videos such as ID.mp4"),
        (tmp_path / "log.csv", "found a file, expected a folder of videos"),
        (tmp_path / "none", "no such folder of videos"),
    ):
        with pytest.raises(DataError, match=message):
            find_clips(path, tmp_path / "out")
