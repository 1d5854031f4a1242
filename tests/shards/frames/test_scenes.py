"""Cuts between scenes are found, and moments are spread over scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
from shards.frames.clips import Clip  # noqa: E402
from shards.frames.picture import Square  # noqa: E402
from shards.frames.read import Sampling, read_clip  # noqa: E402
from shards.frames.timeline import spread, spread_over  # noqa: E402
from tests.shards.frames.drawn import write_clip  # noqa: E402

LEVELS = (30, 120, 220, 70)


def film(path: Path, lengths: tuple[int, ...]) -> Path:
    """Scenes of one grey each, in which a bar moves."""
    pictures = []
    for level, length in zip(LEVELS, lengths, strict=False):
        for at in range(length):
            picture = np.full((64, 64, 3), level, np.uint8)
            picture[:, at % 60 : at % 60 + 4] += 20
            pictures.append(picture)
    return write_clip(path, len(pictures), size=(64, 64), pictures=pictures, options={"bf": "2"})


def scenes(path: Path, frames: int, way: str) -> list[int]:
    """Which scene each of the frames is of."""
    found = read_clip(Clip("film", "video", (path,)), Sampling(frames, way), Square(64, 64))
    return [int(np.argmin(np.abs(np.array(LEVELS) - np.median(picture)))) for picture in found]


def test_each_scene_has_its_frame(tmp_path: Path) -> None:
    """Scenes of 3 to 80 frames: of four uniform moments most are in the longest."""
    clip = film(tmp_path / "film.mp4", (6, 80, 5, 30))
    assert scenes(clip, 4, "uniform") == [1, 1, 1, 3]
    assert scenes(clip, 4, "scenes") == [0, 1, 2, 3]
    assert scenes(clip, 7, "scenes") == [0, 1, 1, 1, 2, 3, 3]
    assert len(scenes(clip, 2, "scenes")) == 2


def test_a_film_without_cuts_is_sampled_uniformly(tmp_path: Path) -> None:
    clip = film(tmp_path / "film.mp4", (50,))
    parts = [
        read_clip(Clip("film", "video", (clip,)), Sampling(5, way), Square(64, 64))
        for way in ("scenes", "uniform")
    ]
    np.testing.assert_array_equal(*parts)


def test_moments_are_spread() -> None:
    assert spread(0, 8, 4) == [1, 3, 5, 7]
    assert spread_over([0, 10, 12], 3) == [2.5, 7.5, 11]
    assert spread_over([0, 10, 12, 20], 2) == [5, 16], "the longest"
    assert spread_over([0, 10], 1) == [5]
