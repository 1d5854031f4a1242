"""From a folder of videos to a folder of frame features."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shards.errors import DataError
from shards.frames.clips import Clip, find_clips
from shards.frames.contact_sheet import SHEET, draw_sheet
from shards.frames.encoders import Encoder, load_encoder
from shards.frames.folder import SKIPPED, FeatureFolder
from shards.frames.read import Sampling, Unreadable
from shards.frames.workers import Workers


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    videos: Path
    out: Path
    sampling: Sampling
    encoder: str
    workers: int
    resume: bool = False


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    videos   clips that were found
    others   files that are neither video nor picture
    before   clips that were done before
    written  clips with features now, all runs together
    short    clips of this run with fewer frames than asked for
    skipped  clips that could not be read, all runs together
    """

    videos: int
    others: int
    before: int
    written: int
    short: int
    skipped: int
    device: str
    seconds: float


def extract(options: Options) -> Summary:
    """Write the features of every clip that has none yet, and a contact sheet.

    Raises:
        DataError: no clips, two of one id, an encoder that cannot be loaded, a folder of other features, or
            not one clip could be read.
    """
    begin = time.monotonic()
    found = find_clips(options.videos, options.out)
    encoder = load_encoder(options.encoder)
    sampling = options.sampling
    settings: dict[str, str | int] = {
        "encoder": options.encoder,
        "frames": sampling.frames,
        "sample": sampling.way,
    }
    with FeatureFolder(options.out, settings, options.resume) as folder:
        names = {clip: os.path.relpath(clip.files[0], options.videos) for clip in found.clips}
        names |= {clip: clip.id for clip in found.clips if clip.kind == "lmdb"}
        left = [clip for clip in found.clips if clip.id not in folder and names[clip] not in folder.skipped]
        before, short = len(found.clips) - len(left), 0
        with Workers(min(options.workers, len(found.clips)), sampling, encoder.square) as workers:
            with tqdm(total=len(found.clips), initial=before, unit=" videos", disable=None) as bar:

                def readable() -> Iterator[tuple[Clip, np.ndarray]]:
                    for clip, pictures in workers.read(left):
                        if isinstance(pictures, Unreadable):
                            folder.skip(names[clip], pictures.reason)
                            bar.update(1)
                        else:
                            yield clip, pictures

                for clip, features in encode_clips(encoder, readable()):
                    folder.add(clip.id, features)
                    short += len(features) < sampling.frames
                    bar.update(1)
            if not len(folder):
                found_none = f"not one of {len(found.clips)} could be read: see {options.out / SKIPPED}"
                raise DataError(f"{options.videos}: {found_none}")
            draw_sheet(options.out / SHEET, [clip for clip in found.clips if clip.id in folder], workers)
        return Summary(
            videos=len(found.clips),
            others=found.others,
            before=before,
            written=len(folder),
            short=short,
            skipped=len(folder.skipped),
            device=str(encoder.device),
            seconds=time.monotonic() - begin,
        )


def encode_clips(
    encoder: Encoder, clips: Iterable[tuple[Clip, np.ndarray]]
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Clips with the features [m, V] of their pictures, uint8 [m, side, side, 3], in the same order.

    The encoder gets whole batches, whichever clips their pictures are of; only the last one is smaller.
    """
    waiting: deque[tuple[Clip, int]] = deque()  # with the number of their pictures
    pictures: list[np.ndarray] = []  # not encoded yet
    features: list[np.ndarray] = []  # of the clips that wait

    def complete(least: int) -> Iterator[tuple[Clip, np.ndarray]]:
        """Encode while there are `least` pictures, and give the clips that are complete."""
        while len(pictures) >= least:
            features.extend(encoder.encode(np.stack(pictures[: encoder.batch])))
            del pictures[: encoder.batch]
        while waiting and waiting[0][1] <= len(features):
            clip, count = waiting.popleft()
            yield clip, np.stack(features[:count])
            del features[:count]

    for clip, squares in clips:
        waiting.append((clip, len(squares)))
        pictures.extend(squares)
        yield from complete(encoder.batch)
    yield from complete(1)
