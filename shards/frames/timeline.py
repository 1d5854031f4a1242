"""When each frame of a video is shown, read from its packets without decoding one.

What a container says of its length and rate is often wrong; its packets are what there is. Times are in units
of the stream (`time_base`), of any start and of any steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream


@dataclass(frozen=True)
class Timeline:
    """When frames are shown.

    times      int64 [frames] ascending, when each begins to be shown
    end        when the last has been shown
    keyframes  times of the frames from which decoding can start, ascending
    numbered   whether the stream has no times, so that `times` are the numbers of the frames
    """

    times: np.ndarray
    end: int
    keyframes: tuple[int, ...]
    numbered: bool = False

    def shown_at(self, moments: Iterable[float]) -> list[int]:
        """The times of the frames that are shown at some moments, ascending, each once."""
        at = np.searchsorted(self.times, np.asarray(list(moments)), side="right") - 1
        distinct: list[int] = self.times[np.unique(at.clip(0))].tolist()
        return distinct

    def keyframe_before(self, time: int) -> int | None:
        """The last keyframe that is shown at `time` or before."""
        at = bisect_right(self.keyframes, time)
        return self.keyframes[at - 1] if at else None


def read_timeline(container: InputContainer, stream: VideoStream) -> Timeline:
    """The timeline of a stream, from where the container stands to where it ends or is broken off.

    Raises:
        ValueError: not one frame is there.
    """
    times: list[int] = []
    keyframes: list[int] = []
    last_step = frames = 0
    numbered = False
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # the end; or cut away by an edit
                continue
            frames += 1
            shown = packet.pts if packet.pts is not None else packet.dts
            if shown is None:
                numbered = True
                continue
            times.append(shown)
            last_step = packet.duration or last_step
            if packet.is_keyframe:
                keyframes.append(shown)
    except av.FFmpegError:
        pass  # cut off: what is there is used
    if not frames:
        raise ValueError("found no frame, expected at least one")
    if numbered:
        return Timeline(np.arange(frames), frames, (), numbered=True)
    ordered = np.unique(times)
    step = last_step or (int(np.median(np.diff(ordered))) if len(ordered) > 1 else 1)
    return Timeline(ordered, int(ordered[-1]) + step, tuple(sorted(keyframes)))


def spread(start: float, end: float, count: int) -> list[float]:
    """The middles of `count` equal parts of the time from `start` to `end`."""
    return [start + (number + 0.5) / count * (end - start) for number in range(count)]


def spread_over(bounds: Sequence[float], count: int) -> list[float]:
    """`count` moments over the stretches between `bounds`: one or more in the middle of each.

    Each stretch has one; the others go to the stretches that are the longest for what they have. With more
    stretches than moments the longest have one.
    """
    starts, lengths = np.asarray(bounds[:-1], float), np.diff(np.asarray(bounds, float))
    share = np.zeros(len(lengths), int)
    share[np.argsort(-lengths, kind="stable")[:count]] = 1
    for _ in range(count - int(share.sum())):
        share[int(np.argmax(lengths / share))] += 1
    parts = zip(starts.tolist(), lengths.tolist(), share.tolist(), strict=True)
    return [moment for start, length, n in parts for moment in spread(start, start + length, n)]
