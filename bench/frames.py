"""What frames of videos cost: decoding in one pass beside other ways, and whether it keeps the cores busy.

    python -m bench.frames [--videos DIR] [--frames 8] [--rounds 5]

Without `--videos` the clips are made: ten seconds of 640 x 360 in H.264 and HEVC, in one group of pictures
and in groups of a second. All ways give the same frames, which are cut to what the encoder takes.
Core-milliseconds a video of one thread, `rounds` times in turn, median reported:

  ours               one pass forward, a seek only where a keyframe lies between two wanted frames
  a seek per frame   to the keyframe before each wanted frame
  all frames         decode everything, keep what is wanted

Then the same videos, 16 times over, by processes as `python -m shards frames` has them: how many cores they
keep busy. A process that is ready but waits for a core that other work has counts as busy; one that waits for
its next video does not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import active_children
from pathlib import Path

import av
import numpy as np

from bench.report import RESULTS, Report, processor
from bench.timing import Spread, alternate, core_seconds, ratio
from shards.frames.clips import Clip, find_clips
from shards.frames.decode import Video
from shards.frames.picture import Square, cut_square
from shards.frames.read import Sampling
from shards.frames.timeline import Timeline, spread
from shards.frames.workers import Workers

SQUARE = Square(224, 256)
SECONDS, RATE, SIZE = 10, 25, (640, 360)
REPEATS = 16
Way = Callable[[Video, Timeline, list[int]], Iterator[av.VideoFrame]]


def write_clips(folder: Path) -> None:
    """Clips of a drifting texture, so that every frame differs from the last everywhere."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 256, (60, 100, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for codec, preset in (("libx264", "veryfast"), ("libx265", "ultrafast")):
        for group in (RATE, SECONDS * RATE):
            options = {"preset": preset, "g": str(group), "x265-params": f"keyint={group}:log-level=none"}
            with av.open(str(folder / f"{codec}-{group}.mp4"), "w") as out:
                stream = out.add_stream(codec, rate=RATE, options=options)
                stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
                for at in range(SECONDS * RATE):
                    picture = np.ascontiguousarray(
                        np.roll(texture, (at, 2 * at), (0, 1))[: SIZE[1], : SIZE[0]]
                    )
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
                out.mux(stream.encode(None))


def ours(video: Video, timeline: Timeline, times: list[int]) -> Iterator[av.VideoFrame]:
    yield from video.frames_at(timeline, times)


def seek_each(video: Video, timeline: Timeline, times: list[int]) -> Iterator[av.VideoFrame]:
    with av.open(str(video.file)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for time_wanted in times:
            container.seek(time_wanted, stream=stream)
            yield next(frame for frame in container.decode(stream) if (frame.pts or 0) >= time_wanted)


def decode_all(video: Video, timeline: Timeline, times: list[int]) -> Iterator[av.VideoFrame]:
    wanted = set(times)
    yield from (frame for frame in video.every_frame() if frame.pts in wanted)


WAYS: dict[str, Way] = {"ours": ours, "a seek per frame": seek_each, "all frames": decode_all}


def read(files: list[Path], frames: int, way: Way) -> list[np.ndarray]:
    """The wanted pictures of each file, uint8 [m, side, side, 3]."""
    pictures = []
    for file in files:
        video = Video(file)
        timeline = video.timeline()
        times = timeline.shown_at(spread(int(timeline.times[0]), timeline.end, frames))
        found = [cut_square(frame, SQUARE, Fraction(1)) for frame in way(video, timeline, times)]
        pictures.append(np.stack(found))
    return pictures


def compare(files: list[Path], frames: int, rounds: int, report: Report) -> None:
    """A row for each way."""
    measured = alternate(
        {
            name: lambda way=way: core_seconds(lambda: read(files, frames, way)) * 1000 / len(files)
            for name, way in WAYS.items()
        },
        rounds,
    )
    for name, values in measured.items():
        times = Spread.of(values)
        share = ratio(values, measured["ours"])
        report.add(
            what=name,
            **{"core-ms a video": times.median, "times ours": share.median},
            **{"lowest": share.lowest, "highest": share.highest, "cores busy": "-"},
        )


def occupy(files: list[Path], frames: int, processes: int) -> tuple[float, float]:
    """(core-milliseconds a video, cores busy) of so many processes, from their first video to their last."""
    clips = [Clip(str(at), "video", (file,)) for at, file in enumerate(files * REPEATS)]
    with Workers(processes, Sampling(frames), SQUARE) as workers:
        results = workers.read(clips)
        next(results)
        begin, run, ready = time.perf_counter(), *_children()
        done = sum(isinstance(pictures, np.ndarray) for _, pictures in results)
        run, ready = (now - before for now, before in zip(_children(), (run, ready), strict=True))
        return run * 1000 / done, (run + ready) / (time.perf_counter() - begin)


def _children() -> tuple[float, float]:
    """Seconds that the main threads of all child processes have run, and have waited for a core."""
    stats = [Path(f"/proc/{child.pid}/schedstat").read_text().split() for child in active_children()]
    return sum(int(stat[0]) for stat in stats) / 1e9, sum(int(stat[1]) for stat in stats) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.frames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--videos", type=Path, metavar="DIR", help="videos of one's own")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "frames.csv", help="the CSV")
    settings = parser.parse_args()
    available = len(os.sched_getaffinity(0))
    device = f"{processor()}, core-seconds; {available} cores, load {os.getloadavg()[0]:.1f}"
    report = Report(settings.out, device, {"PyAV": av.__version__})
    with tempfile.TemporaryDirectory() as made:
        if settings.videos is None:
            write_clips(Path(made))
        clips = find_clips(settings.videos or Path(made), settings.out).clips
        files = [clip.files[0] for clip in clips if clip.kind == "video"]
        compare(files, settings.frames, settings.rounds, report)
        for processes in sorted({1, max(1, available // 2), available}):
            cost, busy = occupy(files, settings.frames, processes)
            report.add(
                what=f"processes: {processes}",
                **{
                    "core-ms a video": cost,
                    "times ours": "-",
                    "lowest": "-",
                    "highest": "-",
                    "cores busy": busy,
                },
            )
    report.close()


if __name__ == "__main__":
    main()
