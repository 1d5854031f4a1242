"""Batches: what a rank gets, a plain dict of tensors.

Legend: B rows (one sample each), L positions of the batch's longest row, M frames, V raw feature width,
U distinct videos of the batch. int64 unless said.

  sample_id    [B]        the user's row in the index; 0 in fillers
  offset       [B]        index of column 0 in the user's sequence: position = offset + column
  item         [B, L]     videos 1..I, oldest first, right-padded with 0
  target       [B, L]     training: the video to predict at each position, 0 where none counts
               [B]        evaluation: the one video to predict after the row's last item
  weight       [B]        float32, 1 in real rows, 0 in fillers
  history      [sum]      evaluation only: all videos before the target, also those beyond L, row after row
  history_row  [sum]      evaluation only: the row that each belongs to
With features (`FeatureTable.join`):
  features     [U, M, V]  float16 or float32, as stored, of the batch's distinct videos in ascending order;
                          row 0 is the padding, zeros
  frames       [U]        real frames of each, 0 for padding and for videos without features
  feature_row  [B, L]     the row of `features` that belongs to each position, 0 = padding

A filler has no items at all (L is at least 1), target 0, weight 0.
"""

from __future__ import annotations

import numpy as np
import torch

from shards.stream.plan import FILLER
from shards.stream.samples import Samples

Batch = dict[str, torch.Tensor]


def pack_training(samples: Samples, rows: np.ndarray) -> Batch:
    """A training batch of the samples at `rows`, int64 `[B]`, FILLER for empty rows."""
    fields, block_BL, inside_BL, pick = _pack(samples, rows)
    column = np.arange(inside_BL.shape[1])
    first_column_B = samples.first_target[pick] - samples.start[pick] - 1
    counts_BL = inside_BL & (column >= first_column_B[:, None])
    return _tensors(fields, target=_keep(block_BL[:, 1:], counts_BL))


def pack_evaluation(samples: Samples, rows: np.ndarray) -> Batch:
    """An evaluation batch of the samples at `rows`, int64 `[B]`, FILLER for empty rows."""
    fields, _, _, pick = _pack(samples, rows)
    real = rows != FILLER
    begin, before = samples.begin[pick], np.where(real, samples.stop[pick] - 1, 0)
    target = _keep(samples.item[begin + samples.stop[pick] - 1], real)
    history_row = np.repeat(np.arange(len(rows)), before)
    place = np.arange(len(history_row)) - np.repeat(np.cumsum(before) - before, before)
    history = samples.item[begin[history_row] + place].astype(np.int64)
    return _tensors(fields, target=target, history=history, history_row=history_row)


def _pack(
    samples: Samples, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """The fields common to both kinds, and what the others are made of: items and their successors int32
    `[B, L+1]`, unmasked; bool `[B, L]`, true at real positions; and `rows` with 0 for fillers."""
    real = rows != FILLER
    pick = np.where(real, rows, 0)
    start = samples.start[pick]
    length = np.where(real, samples.stop[pick] - 1 - start, 0)
    width = max(1, int(length.max(initial=0)))
    place = (samples.begin[pick] + start)[:, None] + np.arange(width + 1)
    block = samples.item.take(place, mode="clip")  # short rows run on into their neighbour: masked below
    inside = np.arange(width) < length[:, None]
    fields = {
        "sample_id": _keep(samples.user[pick], real),
        "offset": _keep(start, real),
        "item": _keep(block[:, :-1], inside),
        "weight": real.astype(np.float32),
    }
    return fields, block, inside, pick


def _keep(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.multiply(values, where, dtype=np.int64)


def _tensors(fields: dict[str, np.ndarray], **more: np.ndarray) -> Batch:
    return {name: torch.from_numpy(array) for name, array in {**fields, **more}.items()}
