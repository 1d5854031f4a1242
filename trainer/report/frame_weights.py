"""How much TCD's pooling makes of each frame of some videos, over all histories that they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mealrec import MealRec
from trainer.inputs import Inputs

VIDEOS = 8
FEWEST_FRAMES = 2


@dataclass(frozen=True)
class FrameWeights:
    """A video's frames [M] as the pooling weighs them, by the mean over its heads.

    id: the original one. seen: histories that the video is in, each with weights of its own. mean, deviation:
    over these; heads: the mean of each head, [H, M].
    """

    id: str
    seen: int
    mean: np.ndarray
    deviation: np.ndarray
    heads: np.ndarray


def choose_videos(inputs: Inputs, with_pictures: set[str] | None) -> np.ndarray:
    """Return up to 8 videos, int64 numbers, most interactions first, with two frames or more.

    with_pictures: only those of these original ids; None for all. None is chosen where the model gets the
    frames in another order than they have.
    """
    if inputs.table is None or inputs.model.shuffle_frames:
        return np.empty(0, np.int64)
    possible = inputs.table.frames >= FEWEST_FRAMES
    if with_pictures is not None:
        possible[1:] &= [str(video) in with_pictures for video in inputs.index.item_ids()]
    counts = np.where(possible, inputs.index.train_counts(), -1)
    first = np.argsort(-counts, kind="stable")[:VIDEOS]
    return first[counts[first] > 0]


class FrameWeightSums:
    """Sums of the weights over histories, for the chosen videos."""

    def __init__(self, model: MealRec, chosen: np.ndarray) -> None:
        """Begin at nothing.

        Args:
            chosen: numbers of videos, int64 [C].
        """
        self._pool = model.tcd.pool if model.config.has_tcd else None
        self.chosen = chosen if self._pool is not None else chosen[:0]
        self._frames = np.zeros(len(self.chosen), np.int64)
        self._seen = np.zeros(len(self.chosen), np.int64)
        self._sums = np.zeros((len(self.chosen), 2, model.config.frames))  # of the mean over heads, squared
        self._heads = np.zeros((len(self.chosen), model.config.tcd.pool_heads, model.config.frames))

    def add(
        self,
        video_N: torch.Tensor,
        x_NMD: torch.Tensor,
        mask_NM: torch.Tensor,
        g_NMD: torch.Tensor,
        c_ND: torch.Tensor,
    ) -> None:
        """Add the positions of a batch: their videos int64 [N], and what the pooling was given for them."""
        for place, video in enumerate(self.chosen.tolist()):
            rows = (video_N == video).nonzero()[:, 0]
            if not len(rows):
                continue
            given = (part[rows] for part in (x_NMD, mask_NM, g_NMD, c_ND))
            assert self._pool is not None, "without a pool nothing is chosen"
            weight_NHM = self._pool.weights(*given).double().cpu().numpy()
            mean_NM = weight_NHM.mean(1)
            self._frames[place] = int(mask_NM[rows[0]].sum())
            self._seen[place] += len(rows)
            self._sums[place] += np.stack([mean_NM.sum(0), np.square(mean_NM).sum(0)])
            self._heads[place] += weight_NHM.sum(0)

    def finish(self, item_ids: Sequence[object] | np.ndarray) -> list[FrameWeights]:
        """Return the weights of the videos that were in a history; item_ids: original ids [I]."""
        found = []
        for place in np.flatnonzero(self._seen).tolist():
            seen, frames = int(self._seen[place]), int(self._frames[place])
            mean_M, square_M = self._sums[place, :, :frames] / seen
            found.append(
                FrameWeights(
                    id=str(item_ids[int(self.chosen[place]) - 1]),
                    seen=seen,
                    mean=mean_M,
                    deviation=np.sqrt(np.maximum(square_M - mean_M**2, 0)),
                    heads=self._heads[place, :, :frames] / seen,
                )
            )
        return found
