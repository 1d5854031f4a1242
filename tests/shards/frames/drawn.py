"""Clips that say which frame is which: each picture shows its number, and a colour in each corner."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CELLS = 4  # a square of cells: the corners have colours, the other twelve are the bits of the number
CORNERS = {(0, 0): "red", (0, 3): "green", (3, 0): "blue", (3, 3): "yellow"}
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
BITS = [(row, column) for row in range(CELLS) for column in range(CELLS) if (row, column) not in CORNERS]


def draw(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 [height, width, 3]: frame `number`, below 4096, in its middle square; a moving bar beside it."""
    picture = np.full((height, width, 3), 90, np.uint8)
    bar = number * 3 % max(width, height)
    picture[bar : bar + 4, :], picture[:, bar : bar + 4] = 160, 160
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    for row in range(CELLS):
        for column in range(CELLS):
            ends = [side * at // CELLS for at in (row, row + 1, column, column + 1)]
            cell = picture[top + ends[0] : top + ends[1], left + ends[2] : left + ends[3]]
            place = (row, column)
            cell[:] = RGB[CORNERS[place]] if place in CORNERS else 255 * (number >> BITS.index(place) & 1)
    return picture


def number(square: np.ndarray) -> int:
    """The number in a picture that is cut to the square, uint8 [side, side, 3]."""
    return sum(int(cell(square, *place).mean() > 127) << bit for bit, place in enumerate(BITS))


def numbers(squares: np.ndarray) -> list[int]:
    """The numbers in several."""
    return [number(square) for square in squares]


def corners(square: np.ndarray) -> tuple[str, ...]:
    """The nearest colours at the top left, top right, bottom left, bottom right."""
    found = []
    for place in CORNERS:
        colour = cell(square, *place)
        found.append(min(RGB, key=lambda name: np.abs(colour - np.array(RGB[name])).sum()))
    return tuple(found)


def cell(square: np.ndarray, row: int, column: int) -> np.ndarray:
    """The mean colour in the middle of a cell."""
    side = len(square)
    ends = [int(side * (at + part) / CELLS) for at in (row, column) for part in (0.3, 0.7)]
    return square[ends[0] : ends[1], ends[2] : ends[3]].astype(float).mean((0, 1))


def write_clip(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    rate: int = 25,
    options: dict[str, str] | None = None,
    colour_range: int | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    title: str = "",
    **container: Any,
) -> Path:
    """Write a clip of numbered frames at `times`, in 1/`rate` seconds; one after the other by default."""
    with av.open(str(path), "w", **container) as out:
        out.metadata.update({"title": title} if title else {})
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, rate)
        if colour_range is not None:
            stream.codec_context.color_range = colour_range
        for place in range(frames):
            picture = pictures[place] if pictures is not None else draw(place, *size)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(format=pixels, dst_color_range=colour_range)
            frame.pts = times[place] if times is not None else place
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Give an MP4 a display matrix, as phones do: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4")
    content[start : start + 36] = matrix.tobytes()
    path.write_bytes(content)
