"""From a decoded frame to the square picture that an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.buffer import Buffer

LARGEST = 1 << 27  # pixels of a frame: four times 8K
LONGEST = 16  # times as long as the other side: longer ones would be huge before they are cut


@dataclass(frozen=True)
class Square:
    """A frame is scaled so that its shorter side is `short_side`; the `side` x `side` in its middle stay."""

    side: int
    short_side: int


def cut_square(frame: av.VideoFrame, square: Square, pixel_aspect: Fraction) -> np.ndarray:
    """uint8 [side, side, 3]: the middle of a frame in RGB, as a player shows it.

    pixel_aspect: how wide a pixel is for its height. Scaling and conversion are one pass of FFmpeg's, so that
    not even a frame of 8K is held in RGB.

    Raises:
        ValueError: the frame is of a form or in a format that cannot be scaled.
    """
    width, height = float(frame.width * pixel_aspect), float(frame.height)
    shorter, longer = min(width, height), max(width, height)
    if longer > LONGEST * shorter:
        found = f"{frame.width} x {frame.height} pixels"
        raise ValueError(f"found {found}, expected at most {LONGEST} times as long as wide")
    scale = square.short_side / shorter
    scaled = frame.reformat(
        max(square.side, round(width * scale)),
        max(square.side, round(height * scale)),
        "rgb24",
        interpolation="BICUBIC",
    ).to_ndarray()
    return orient(middle(scaled, square.side), _display_matrix(frame))


def middle(picture: np.ndarray, side: int) -> np.ndarray:
    """The square of `side` pixels in the middle of a picture [height, width, 3]."""
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def orient(square: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """A square picture turned and mirrored as a display matrix says, to the nearest quarter turn.

    The matrix takes a pixel at (x, y) to (a x + c y, b x + d y); it is stored as a, b, u, c, d, v, ...
    """
    if matrix is None:
        return np.ascontiguousarray(square)
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    if abs(b) > abs(a):
        square, to_x, to_y = square.transpose(1, 0, 2), c, b
    else:
        to_x, to_y = a, d
    return np.ascontiguousarray(square[:: -1 if to_y < 0 else 1, :: -1 if to_x < 0 else 1])


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return bytes(data) if isinstance(data, Buffer) else None
