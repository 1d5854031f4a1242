"""Real clips, where $MEALREC_REAL_DATA names their folder: the wanted frames are those of a full decode."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from shards.frames.clips import Clip  # noqa: E402
from shards.frames.decode import Video  # noqa: E402
from shards.frames.picture import Square, cut_square  # noqa: E402
from shards.frames.read import WAYS, Sampling, Unreadable, read_clip  # noqa: E402
from shards.frames.timeline import spread  # noqa: E402

ROOT = Path(os.environ.get("MEALREC_REAL_DATA", "/nonexistent"))
CLIPS = sorted(file for folder in ("clips_misc", "msvd_frames/video") for file in ROOT.glob(f"{folder}/*"))
pytestmark = pytest.mark.skipif(not CLIPS, reason="MEALREC_REAL_DATA is not set")
SQUARE = Square(224, 256)


@pytest.mark.parametrize("file", CLIPS, ids=lambda file: file.name)
def test_the_frames_of_a_full_decode(file: Path) -> None:
    """In AVI, which has no times, a frame may be one beside the wanted one; damage is not compared."""
    video = Video(file)
    every = [cut_square(frame, SQUARE, Fraction(1)) for frame in video.every_frame()]
    timeline = video.timeline()
    times = timeline.shown_at(spread(int(timeline.times[0]), timeline.end, 8))
    found = [cut_square(frame, SQUARE, Fraction(1)) for frame in video.frames_at(timeline, times)]
    assert len(found) == len(times) == min(8, len(timeline.times))
    if file.stem == "corrupted":
        return
    beside = 1 if file.suffix == ".avi" else 0
    for time, picture in zip(times, found, strict=True):
        place = int(np.searchsorted(timeline.times, time))
        near = every[max(0, place - beside) : place + beside + 1]
        assert any(np.array_equal(picture, other) for other in near), f"frame {place}"


@pytest.mark.parametrize("file", CLIPS, ids=lambda file: file.name)
@pytest.mark.parametrize("way", WAYS)
def test_all_can_be_read(file: Path, way: str) -> None:
    pictures = read_clip(Clip(file.stem, "video", (file,)), Sampling(8, way), SQUARE)
    assert not isinstance(pictures, Unreadable) and pictures.shape[1:] == (224, 224, 3)
