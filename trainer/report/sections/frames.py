"""The weights that TCD's pooling gives to the frames of some videos."""

from __future__ import annotations

from trainer.report.blocks import Bar, FrameStrip, Section
from trainer.report.comparison import Comparison
from trainer.report.frame_weights import FrameWeights


def section(comparison: Comparison) -> Section:
    """Return the section."""
    videos: dict[tuple[str, str], dict[int, FrameWeights]] = {}  # of a data set, by run
    for number, ranked in comparison.recommended.items():
        for weights in ranked.frames:
            key = (comparison.runs[number].fingerprint, weights.id)
            videos.setdefault(key, {})[number] = weights
    strips = [_strip(comparison, video, runs) for (_, video), runs in videos.items()]
    return Section(
        "frames",
        "Frames that count",
        "The weight of each frame in TCD's pooling, as the mean over its heads and over the histories with"
        " the video. With equal weights the video would be the plain mean of its frames.",
        strips=strips,
        key=True,
    )


def _strip(comparison: Comparison, video: str, runs: dict[int, FrameWeights]) -> FrameStrip:
    first = next(iter(runs.values()))
    count = len(first.mean)
    pictures = comparison.pictures.get(video, [])
    pictures = pictures if len(pictures) == count else [""] * count
    longest = max(float(weights.mean.max()) for weights in runs.values())
    frames = [
        (picture, [_bar(comparison, number, weights, frame, longest) for number, weights in runs.items()])
        for frame, picture in enumerate(pictures)
    ]
    times = f"{first.seen:,} time{'' if first.seen == 1 else 's'} in the histories"
    return FrameStrip(f"Video {video}", f"{times}; equal weights: {100 / count:.1f} %", frames)


def _bar(comparison: Comparison, number: int, weights: FrameWeights, frame: int, longest: float) -> Bar:
    mean = float(weights.mean[frame])
    heads = ", ".join(f"{100 * value:.1f} %" for value in weights.heads[:, frame])
    detail = f"{comparison.names[number]}: {100 * mean:.1f} % ± {100 * weights.deviation[frame]:.1f} over the"
    return Bar(number, mean / longest, f"{100 * mean:.1f} %", f"{detail} histories; by head: {heads}")
