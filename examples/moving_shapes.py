"""Clips of moving shapes, and a log of who watched them: data to begin with, where you have none.

    python examples/moving_shapes.py shapes

writes `shapes/videos/`, `shapes/log.csv` and `shapes/titles.csv`.

A clip has one colour and one shape, which only its salient frames show; in the others grey dots drift. Each
user likes one colour and watches mostly that.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import av
import numpy as np

COLOURS = {"red": (230, 40, 40), "green": (40, 200, 70), "blue": (50, 90, 235), "yellow": (240, 220, 40)}
SHAPES = ("disc", "square", "cross")
CLIPS, FRAMES, SIDE = 48, 16, 128
SALIENT = range(6, 12)
USERS, WATCHED, LIKING = 1000, 8, 0.9


def title(clip: int) -> str:
    """Return the title of a clip, such as `A blue cross, take 2`."""
    shape, take = SHAPES[clip // len(COLOURS) % len(SHAPES)], clip // (len(COLOURS) * len(SHAPES))
    return f"A {colour(clip)} {shape}, take {take + 1}"


def colour(clip: int) -> str:
    """Return the colour of a clip."""
    return list(COLOURS)[clip % len(COLOURS)]


def picture(clip: int, frame: int) -> np.ndarray:
    """Draw a frame: uint8 `[SIDE, SIDE, 3]`."""
    rng = np.random.default_rng(clip)
    image = np.full((SIDE, SIDE, 3), 60, np.uint8)
    for across, down in (rng.integers(0, SIDE, (12, 2)) + 3 * frame) % (SIDE - 6):
        image[down : down + 6, across : across + 6] = 110
    if frame in SALIENT:
        down, across = np.mgrid[:SIDE, :SIDE]
        x, y = across - (40 + 6 * (frame - SALIENT[0])), down - SIDE // 2
        inside = {
            "disc": x**2 + y**2 < 35**2,
            "square": np.maximum(abs(x), abs(y)) < 32,
            "cross": (np.minimum(abs(x), abs(y)) < 12) & (np.maximum(abs(x), abs(y)) < 38),
        }
        image[inside[SHAPES[clip // len(COLOURS) % len(SHAPES)]]] = COLOURS[colour(clip)]
    return image


def write_clips(folder: Path) -> None:
    """Write `0.mp4`, `1.mp4`, ... into `folder`."""
    folder.mkdir(parents=True)
    for clip in range(CLIPS):
        with av.open(str(folder / f"{clip}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=8)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for frame in range(FRAMES):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(clip, frame), "rgb24")))
            file.mux(stream.encode(None))


def write_log(log: Path, titles: Path, seed: int = 0) -> None:
    """Write who watched what, and the titles of the clips, both as CSV."""
    rng = np.random.default_rng(seed)
    with open(titles, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("item", "title"), *((clip, title(clip)) for clip in range(CLIPS))])
    with open(log, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("user_id", "item_id", "timestamp"))
        for user in range(USERS):
            liked, seen = list(COLOURS)[user % len(COLOURS)], set[int]()
            while len(seen) < WATCHED:
                clip = int(rng.integers(CLIPS))
                if clip not in seen and (colour(clip) == liked) == (rng.random() < LIKING):
                    rows.writerow((user, clip, 100 * user + len(seen)))
                    seen.add(clip)


def write_all(folder: Path) -> tuple[Path, Path, Path]:
    """Write everything into a new folder; the paths of videos, log and titles."""
    videos, log, titles = (folder / name for name in ("videos", "log.csv", "titles.csv"))
    write_clips(videos)
    write_log(log, titles)
    return videos, log, titles


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Makes clips of moving shapes and a log of who watched them."
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} exists already")
    write_all(folder)
    print(f"wrote {folder}: {CLIPS} clips, {USERS} users")
