"""Reads the frames of one clip: the work of a process that decodes. It loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import av
import numpy as np

from shards.errors import one_line
from shards.frames.clips import Clip
from shards.frames.decode import Video
from shards.frames.lmdb_file import read_pictures
from shards.frames.picture import Square, cut_square
from shards.frames.scenes import find_cuts
from shards.frames.timeline import Timeline, spread, spread_over

Way = Literal["uniform", "scenes"]
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Sampling:
    """At most `frames` frames of a clip: `uniform` in time, or some of each scene."""

    frames: int
    way: Way = "uniform"


@dataclass(frozen=True)
class Unreadable:
    """Why a clip has no frames, in one line."""

    reason: str


def read_clip(clip: Clip, sampling: Sampling, square: Square) -> np.ndarray | Unreadable:
    """uint8 [m, side, side, 3]: 1 to `sampling.frames` frames of a clip, as they are shown one by one."""
    try:
        pictures = _read(clip, sampling, square)
        if not len(pictures):
            raise ValueError("not one frame could be decoded")
        return pictures
    except av.FFmpegError as error:
        return Unreadable(one_line(error.strerror or error))
    except Exception as error:  # one video, whatever is wrong with it, does not stop the others
        return Unreadable(one_line(error) or type(error).__name__)


def _read(clip: Clip, sampling: Sampling, square: Square) -> np.ndarray:
    if clip.kind == "lmdb":
        stored = read_pictures(clip.files[0], clip.id)
        places = _places(len(stored), sampling.frames)
        return np.stack([_resized(stored[place], square) for place in places])
    if clip.kind == "pictures":
        places = _places(len(clip.files), sampling.frames)
        return np.stack([_first(Video(clip.files[place]), square) for place in places])
    video = Video(clip.files[0])
    timeline = video.timeline()
    times = timeline.shown_at(_moments(video, timeline, sampling))
    squares = [cut_square(frame, square, video.pixel_aspect) for frame in video.frames_at(timeline, times)]
    return np.stack(squares) if squares else np.zeros((0, square.side, square.side, 3), np.uint8)


def _moments(video: Video, timeline: Timeline, sampling: Sampling) -> list[float]:
    start, end = int(timeline.times[0]), timeline.end
    if sampling.way == "uniform" or timeline.numbered:  # cuts are found by time
        return spread(start, end, sampling.frames)
    cuts = find_cuts(video.every_frame(), sampling.frames - 1)
    return spread_over([start, *(cut for cut in cuts if start < cut < end), end], sampling.frames)


def _places(there: int, most: int) -> list[int]:
    """Which of `there` pictures are taken: all, or `most` of them at equal distances."""
    return [int(place) for place in spread(0, there, min(there, most))]


def _first(video: Video, square: Square) -> np.ndarray:
    """The only frame of a picture, or the first of what is none."""
    for frame in video.every_frame():
        return cut_square(frame, square, video.pixel_aspect)
    raise ValueError(f"{video.file.name}: found no picture that can be decoded")


def _resized(picture: np.ndarray, square: Square) -> np.ndarray:
    """A picture in RGB as the encoder takes it."""
    return cut_square(av.VideoFrame.from_ndarray(picture, "rgb24"), square, Fraction(1))
