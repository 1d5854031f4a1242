"""Videos that look alike: the nearest ones by their mean frame."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from shards import FeatureTable

NEIGHBOURS = 10
BLOCK = 4096  # videos that are compared with as many others at a time


def nearest(table: FeatureTable, videos: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return for each of `videos` the rows of the most similar ones in `among`, nearest first; int64 [n, k].

    Similarity is the cosine of the means over the real frames. k is `NEIGHBOURS`, or fewer where there are
    not as many. All rows are those of `table`, of videos that have features.
    """
    count = min(NEIGHBOURS, len(among))
    found = np.zeros((len(videos), count), np.int64)
    for start in range(0, len(videos), BLOCK):
        own = _directions(table, videos[start : start + BLOCK])
        best, at = torch.full((len(own), 0), 0.0), torch.zeros((len(own), 0), dtype=torch.int64)
        for first in range(0, len(among), BLOCK):
            similar = own @ _directions(table, among[first : first + BLOCK]).T
            candidates = torch.arange(first, first + similar.shape[1]).expand(len(own), -1)
            best, order = torch.cat([best, similar], 1).topk(min(count, best.shape[1] + similar.shape[1]))
            at = torch.cat([at, candidates], 1).gather(1, order)
        found[start : start + BLOCK] = among[at.numpy()]
    return found


def _directions(table: FeatureTable, videos: np.ndarray) -> torch.Tensor:
    """The mean frame of each video, of length 1; float32 [n, V]. Past the real frames all is zero."""
    return F.normalize(torch.from_numpy(table.features[videos].sum(axis=1, dtype=np.float32)))
