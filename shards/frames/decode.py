"""Decodes wanted frames of a video in one pass forward, seeking only where that skips work.

A seek pays where a keyframe lies between the frame that was decoded last and the next wanted one: all before
that keyframe is skipped. Within a group of pictures decoding goes on, as a seek would only go back. Frames
that no other frame needs are not decoded unless they are wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from shards.frames.picture import LARGEST
from shards.frames.timeline import Timeline, read_timeline

# A playlist by another name must not make FFmpeg fetch what it lists; `%03d` in a name is no pattern.
_OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none", "max_pixels": str(LARGEST)}
_SKIP_BY_PACKET = ("h264", "hevc")  # decoders that decide for each packet whether to skip it

av.logging.set_level(None)  # what FFmpeg says of broken videos is said once, by their reason


class _TooLate(Exception):
    """A seek ended behind the frame that was wanted."""


class Video:
    """A video or picture in a file. Each method opens it anew and raises what FFmpeg raises at faults.

    pixel_aspect  how wide a pixel is for its height; known when it has been opened
    decoded       frames that were decoded so far
    """

    def __init__(self, file: Path):
        self.file = file.absolute()  # so that FFmpeg does not take `http:x.mp4` for an address
        self.pixel_aspect = Fraction(1)
        self.decoded = 0

    def timeline(self) -> Timeline:
        """When its frames are shown. ValueError where there are none."""
        with self._open() as (container, stream):
            return read_timeline(container, stream)

    def every_frame(self) -> Iterator[av.VideoFrame]:
        """All frames that decode, in the order in which they are shown."""
        with self._open() as (container, stream):
            yield from self._decode(container, stream)

    def frames_at(self, timeline: Timeline, times: Sequence[int]) -> Iterator[av.VideoFrame]:
        """The frames that are shown at `times` of the timeline, ascending.

        One that does not decode is replaced by the next that does; at the end there are fewer.
        """
        wanted = deque(times)
        try:
            yield from self._walk(timeline, wanted, seek=True)
        except _TooLate:  # the container has no index that could be trusted
            yield from self._walk(timeline, wanted, seek=False)

    def _walk(self, timeline: Timeline, wanted: deque[int], seek: bool) -> Iterator[av.VideoFrame]:
        """Take the wanted times from the left as their frames are found."""
        with self._open() as (container, stream):
            # AVI has no times: its packets have guesses, which are right as a whole but not for each.
            timed = not timeline.numbered and container.format.name != "avi"
            skips = timed and stream.codec_context.name in _SKIP_BY_PACKET
            keep = frozenset(wanted) if skips else None
            frames, numbers = self._decode(container, stream, keep), iter(timeline.times.tolist())
            shown, landing = int(timeline.times[0]), False
            while wanted:
                keyframe = timeline.keyframe_before(wanted[0]) if seek else None
                if keyframe is not None and keyframe > shown:
                    container.seek(keyframe, stream=stream)
                    frames, landing = self._decode(container, stream, keep), True
                for frame in frames:
                    time = frame.pts if frame.pts is not None else frame.dts
                    if timeline.numbered:
                        time = next(numbers, None)
                    if time is None:
                        continue
                    if landing and time > wanted[0]:
                        raise _TooLate
                    if landing and time <= shown:
                        seek = False  # it went back: the index has but few of the keyframes
                    shown, landing = time, False
                    if time >= wanted[0]:
                        while wanted and wanted[0] <= time:
                            wanted.popleft()
                        yield frame
                        break
                else:
                    return

    def _decode(
        self, container: InputContainer, stream: VideoStream, keep: frozenset[int] | None = None
    ) -> Iterator[av.VideoFrame]:
        """Decode from where the container stands; at other times than `keep` only what other frames need."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):  # the end, or where the file is broken off
                return
            if keep is not None:
                wanted = packet.pts is None or packet.pts in keep
                stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue  # the next packets may be whole
            self.decoded += len(frames)
            yield from frames

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The file and its video stream; one thread decodes it, as there are many videos."""
        with av.open(str(self.file), options=_OPTIONS, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise ValueError("found no video stream that can be decoded, expected one")
            stream.thread_count = 1
            self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            yield container, stream
