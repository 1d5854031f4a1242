"""A start from another run: its best weights, and the state of its optimiser (`--init_from`).

videos      matched by their original ids; known ones keep their row of the ID table and their bias
new videos  with features: the mean of the rows of the most similar known videos; a fresh row without
positions   those that both models have
parts       that the run did not have start fresh, and then the optimiser does, too: an old Adam makes
            steps several times too long where it has seen no gradient yet
moments     of a row without an origin: zero, and the mean over the others for the second one
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from shards import FeatureTable
from trainer.distributed import broadcast_object
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.evaluation.weights import ITEM_BIAS, ITEM_TABLE, POSITION_TABLE
from trainer.rank import moments, similar_videos

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class VideoRows:
    """From which rows of the old table those of the new one come.

    known    int64 [I]     the old row of each new video, from 1, or -1
    similar  int64 [S]     rows, from 1, of new videos that are like known ones
    nearest  int64 [S, k]  the old rows of those
    """

    known: np.ndarray
    similar: np.ndarray
    nearest: np.ndarray

    def fill(self, fresh: torch.Tensor, old: torch.Tensor, *, by_content: bool) -> torch.Tensor:
        """`fresh` [I+1, ...] with what comes from `old` [I'+1, ...]; row 0, the padding, stays."""
        filled = fresh.clone()
        matched = self.known >= 0
        filled[1:][torch.from_numpy(matched)] = old[torch.from_numpy(self.known[matched])]
        if by_content and len(self.similar):
            nearest = torch.from_numpy(self.nearest)
            total = torch.zeros_like(filled[: len(nearest)])
            for rows in nearest.T:  # one after the other: all at once take k times the memory
                total += old[rows]
            filled[torch.from_numpy(self.similar)] = total / nearest.shape[1]
        return filled


def video_rows(old_ids: weights.Ids, new_ids: weights.Ids, table: FeatureTable | None) -> VideoRows:
    """Match videos by original id, and new ones by content where there is a table of features."""
    known = weights.match_items(old_ids, new_ids)
    similar, nearest = np.zeros(0, np.int64), np.zeros((0, 1), np.int64)
    if table is not None:
        rows = np.arange(1, len(known) + 1)
        seen = table.frames[1:] > 0
        like, among = rows[(known < 0) & seen], rows[(known >= 0) & seen]
        if len(like) and len(among):
            similar, nearest = like, known[similar_videos.nearest(table, like, among) - 1]
    return VideoRows(known, similar, nearest)


class WarmStart:
    """The best checkpoint of another run, for a run whose videos are `item_ids`.

    On every rank: first `put_weights`, then `put_moments` when the engine is built around the model.
    """

    def __init__(self, run: str, item_ids: weights.Ids, table: FeatureTable | None, *, is_main: bool) -> None:
        """Read the weights, and match the videos (rank 0 does, for all).

        Raises:
            UserError: no run there, no checkpoint yet, or a damaged one.
        """
        self.run, self.is_main = run, is_main
        self.old = weights.load(run)
        ids = weights.original_ids(run, self.old.facts)
        matched = broadcast_object(video_rows(ids, item_ids, table) if is_main else None)
        assert matched is not None, "rank 0 has matched them"
        self.rows = matched
        self.fresh_parts: list[str] = []

    def put_weights(self, model: nn.Module) -> None:
        """Put the weights into a new model, which has its fresh ones.

        Raises:
            UserError: a model of another shape.
        """
        own = {name: parameter.detach() for name, parameter in model.named_parameters()}
        old = self.old.state
        self.fresh_parts = sorted({name.split(".")[0] for name in own if name not in old})
        start = {name: self._fitted(name, old[name], own[name]) if name in old else own[name] for name in own}
        try:
            weights.load_into(model, start)
        except UserError as error:
            raise UserError(f"--init_from {self.run}: another model: {error}") from None
        known, similar = int((self.rows.known >= 0).sum()), len(self.rows.similar)
        videos = f"{known} videos known, {len(self.rows.known) - known} new"
        like = f" ({similar} of them start from videos like them)" if similar else ""
        parts = f"; new parts: {', '.join(self.fresh_parts)}" if self.fresh_parts else ""
        self._say(f"started from {self.run}: {videos}{like}{parts}")

    def put_moments(self, engine: DeepSpeedEngine) -> None:
        """Put the state of the optimiser into the engine, or say why it starts afresh.

        Raises:
            UserError: a file of the checkpoint is damaged, or holds more than tensors.
        """
        if self.fresh_parts:
            self._say("the optimiser starts afresh: parts of the model are new")
            return
        checkpoint, facts = weights.find(Path(self.run), "best"), self.old.facts
        shapes = {name: weight.shape for name, weight in self.old.state.items()}
        found = moments.read(checkpoint, facts, shapes)
        if found is None:
            self._say(f"the optimiser starts afresh: {checkpoint} holds no state of Adam, only weights")
            return
        old = found

        def fitted(name: str, key: str, shape: torch.Size) -> torch.Tensor:
            whole = old.whole(name, key, shapes[name])
            fresh = torch.zeros(shape)
            if key == moments.SECOND and name in (ITEM_TABLE, ITEM_BIAS, POSITION_TABLE):
                fresh[1:] = whole[1:].mean(0)
            return self._fitted(name, whole, fresh)

        taken = moments.put(engine, old.step, fitted)
        after = f"goes on after {old.step} steps" if taken else "starts afresh: it is not Adam"
        self._say(f"the optimiser {after}")

    def _fitted(self, name: str, old: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        """What belongs into `fresh`, of which `old` may have other rows; `old` where its width differs."""
        if old.shape[1:] != fresh.shape[1:]:
            return old
        if name in (ITEM_TABLE, ITEM_BIAS):
            return self.rows.fill(fresh, old, by_content=name == ITEM_TABLE)
        if name == POSITION_TABLE:
            common = min(len(fresh), len(old))
            return torch.cat([old[:common], fresh[common:]])
        return old

    def _say(self, line: str) -> None:
        if self.is_main:
            print(line, file=sys.stderr)
