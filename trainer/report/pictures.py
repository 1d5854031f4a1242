"""Small pictures of videos' frames, to be shown beside their weights."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import UserError

if TYPE_CHECKING:
    from shards.frames.clips import Clip

SIDE = 96  # pixels
QUALITY = 80  # of JPEG
PROCESSES = 2


class Pictures:
    """The videos or pictures that the features were made of, as `python -m shards frames` reads them."""

    def __init__(self, folder: str, out: Path) -> None:
        """Find the clips.

        Args:
            out: what this command writes, left out of the search.

        Raises:
            UserError, DataError: no such folder, no clips in it, or no library to read them.
        """
        try:
            import av  # noqa: F401 - what reads them is loaded later, in other processes
            from PIL import Image  # noqa: F401
        except ModuleNotFoundError as error:
            needs = f"--frames needs {error.name}, not installed"
            raise UserError(f'{needs}: pip install "mealrec[frames]"') from None
        from shards.frames.clips import find_clips

        self._clips: dict[str, Clip] = {clip.id: clip for clip in find_clips(Path(folder), out).clips}

    @property
    def ids(self) -> set[str]:
        """Ids of the videos that have pictures."""
        return set(self._clips)

    def read(self, wanted: Iterable[tuple[str, int]]) -> dict[str, list[str]]:
        """Return `data:` addresses of the frames by id, for videos and their numbers of frames.

        A clip that cannot be read, or has another number of frames than the features, is left out.
        """
        from shards.frames.picture import Square
        from shards.frames.read import Sampling
        from shards.frames.workers import Workers

        frames = {video: count for video, count in wanted if video in self._clips}
        if not frames:
            return {}
        with Workers(PROCESSES, Sampling(max(frames.values())), Square(SIDE, SIDE)) as workers:
            read = dict(workers.read([self._clips[video] for video in frames]))
        return {
            clip.id: [_address(picture) for picture in pictures]
            for clip, pictures in read.items()
            if isinstance(pictures, np.ndarray) and len(pictures) == frames[clip.id]
        }


def _address(picture: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "jpeg", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
