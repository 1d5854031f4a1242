"""A sheet of small pictures: what the encoder saw of some videos, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from shards.errors import printable
from shards.format.partial import PartialPath
from shards.frames.clips import Clip
from shards.frames.timeline import spread
from shards.frames.workers import Workers

SHEET = "contact.png"
CLIPS, THUMB, TITLE = 16, 96, 14  # videos at most; pixels of a picture's side and of a line of text


def draw_sheet(path: Path, clips: Sequence[Clip], workers: Workers) -> None:
    """Read some of the clips once more, evenly from first to last, and draw a row of pictures for each."""
    chosen = [clips[int(place)] for place in spread(0, len(clips), min(len(clips), CLIPS))]
    read = {clip.id: pictures for clip, pictures in workers.read(chosen) if isinstance(pictures, np.ndarray)}
    rows = [(clip.id, read[clip.id]) for clip in chosen if clip.id in read]
    widest = max((len(pictures) for _, pictures in rows), default=1)
    sheet = Image.new("RGB", (widest * THUMB, max(1, len(rows)) * (TITLE + THUMB)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (video, pictures) in enumerate(rows):
        top = row * (TITLE + THUMB)
        draw.text((2, top + 1), printable(video).encode("ascii", "replace").decode(), fill="black")
        for column, picture in enumerate(pictures):
            small = Image.fromarray(picture).resize((THUMB, THUMB), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * THUMB, top + TITLE))
    with PartialPath(path) as partial:
        sheet.save(partial.path, "png")
        partial.commit()
