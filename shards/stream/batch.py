"""Batches: what a rank gets, a plain dict of tensors.

Legend: B rows (one sample each), L positions of the batch's longest row, M frames, V raw feature width,
U distinct videos of the batch, N real positions, W positions with a target. int64 unless stated otherwise.

  sample_id    [B]        the user's row in the index; 0 in fillers
  offset       [B]        index of column 0 in the user's sequence: position = offset + column
  item         [B, L]     videos 1..I, oldest first, right-padded with 0
  weight       [B]        float32, 1 in real rows, 0 in fillers
  target       [B, L]     training: the video to predict at each position, 0 where none counts
               [B]        evaluation: the one video to predict after the row's last item
               [B]        histories: zeros, there is nothing to predict
  real_index   [N]        indices of the real positions, row by row in [B, L]
  target_index [W]        training: indices of the positions with a target, likewise
                          (with sizes rounded up: and of some cells without, see `buckets.py`)
  history      [sum]      evaluation and histories: all videos before the target, also those beyond L, row
                          after row
  history_row  [sum]      evaluation and histories: the row that each belongs to
With features (`FeatureTable.join`):
  feature_row  [B, L]     the row of `features` that belongs to each position, 0 = padding
  features     [U, M, V]  float16 or float32, as stored, of the batch's distinct videos in ascending order;
                          row 0 is the padding, zeros (with sizes rounded up: also the last ones)
  frames       [U]        real frames of each, 0 for padding and for videos without features
  video        [U]        in place of those two: the videos, where their features are in device memory

A filler has no items at all (L is at least 1), target 0, weight 0.
"""

from __future__ import annotations

from typing import TypedDict, cast

import numpy as np
import torch

from shards.stream.plan import FILLER
from shards.stream.samples import Samples


class _Always(TypedDict):
    """The fields of every batch."""

    sample_id: torch.Tensor
    offset: torch.Tensor
    item: torch.Tensor
    weight: torch.Tensor
    target: torch.Tensor
    real_index: torch.Tensor


class Batch(_Always, total=False):
    """A batch, see the legend at the top of this module. The fields listed here may be absent."""

    target_index: torch.Tensor
    history: torch.Tensor
    history_row: torch.Tensor
    features: torch.Tensor
    frames: torch.Tensor
    feature_row: torch.Tensor
    video: torch.Tensor


def pack_training(samples: Samples, rows: np.ndarray) -> Batch:
    """A training batch of the samples at `rows`, int64 `[B]`, FILLER for empty rows."""
    chosen = _Rows(samples, rows)
    column = np.arange(chosen.inside_BL.shape[1])
    first_column_B = samples.first_target[chosen.pick] - samples.start[chosen.pick] - 1
    counts_BL = chosen.inside_BL & (column >= first_column_B[:, None])
    target = _keep(chosen.block_BL[:, 1:], counts_BL)
    return {**chosen.batch(target), "target_index": torch.from_numpy(np.flatnonzero(target))}


def pack_evaluation(samples: Samples, rows: np.ndarray) -> Batch:
    """An evaluation batch of the samples at `rows`, int64 `[B]`, FILLER for empty rows."""
    chosen = _Rows(samples, rows)
    last = samples.begin[chosen.pick] + samples.stop[chosen.pick] - 1
    return chosen.batch_with_history(target=_keep(samples.item[last], chosen.real))


def pack_histories(samples: Samples, rows: np.ndarray) -> Batch:
    """A batch of the samples at `rows` whose inputs are whole histories: no target follows them."""
    return _Rows(samples, rows).batch_with_history(target=np.zeros(len(rows), np.int64))


class _Rows:
    """Rows of samples as padded blocks.

    real       bool [B], false in fillers
    pick       the samples, 0 for fillers
    block_BL   int32 [B, L+1]: items and their successors, unmasked
    inside_BL  bool [B, L]: true at real positions
    """

    def __init__(self, samples: Samples, rows: np.ndarray):
        self.samples = samples
        self.pick = np.where(rows != FILLER, rows, 0)
        self.real = (rows != FILLER) & (samples.user[self.pick] != FILLER)
        start = samples.start[self.pick]
        length = np.where(self.real, samples.stop[self.pick] - 1 - start, 0)
        width = max(1, int(length.max(initial=0)))
        event = (samples.begin[self.pick] + start)[:, None] + np.arange(width + 1)
        # Short rows run on into the next sequence, which `inside_BL` masks.
        self.block_BL = samples.item.take(event, mode="clip")
        self.inside_BL = np.arange(width) < length[:, None]

    def batch(self, target: np.ndarray) -> Batch:
        """The fields of every batch."""
        user, start = self.samples.user[self.pick], self.samples.start[self.pick]
        return {
            "sample_id": torch.from_numpy(_keep(user, self.real)),
            "offset": torch.from_numpy(_keep(start, self.real)),
            "item": torch.from_numpy(_keep(self.block_BL[:, :-1], self.inside_BL)),
            "weight": torch.from_numpy(self.real.astype(np.float32)),
            "target": torch.from_numpy(target),
            "real_index": torch.from_numpy(np.flatnonzero(self.inside_BL)),
        }

    def batch_with_history(self, target: np.ndarray) -> Batch:
        """The fields of every batch, and all items of a sequence before the sample's last one."""
        samples, pick = self.samples, self.pick
        before = np.where(self.real, samples.stop[pick] - 1, 0)
        row = np.repeat(np.arange(len(pick)), before)
        position = np.arange(len(row)) - np.repeat(np.cumsum(before) - before, before)
        history = samples.item[samples.begin[pick][row] + position].astype(np.int64)
        return {
            **self.batch(target),
            "history": torch.from_numpy(history),
            "history_row": torch.from_numpy(row),
        }


def page_locked(batch: Batch) -> Batch:
    """The batch in page-locked memory, from which a GPU copies it while the host goes on."""
    fields = cast(dict[str, torch.Tensor], batch)
    return cast(Batch, {name: tensor.pin_memory() for name, tensor in fields.items()})


def _keep(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`values` as int64, 0 elsewhere than `where`."""
    kept: np.ndarray = np.multiply(values, where, dtype=np.int64)
    return kept
