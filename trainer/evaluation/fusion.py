"""Late fusion: several models rank together, by the sum of their log-softmax scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from mealrec import Batch, MealRec, ranking


class Fusion(nn.Module):
    """Ranks by `sum over models of log softmax(scores)`.

    The logarithm of a softmax's denominator is one number for each user and model, so it changes no ranking:
    what is left are products of vectors, those of all models one behind the other.
    """

    videos: torch.Tensor

    def __init__(self, models: Sequence[MealRec], seeds: Sequence[int]) -> None:
        """Join models of the same videos.

        Args:
            models: on one device.
            seeds: of each model's noise.
        """
        super().__init__()
        self.models, self.seeds = nn.ModuleList(models), seeds
        videos_ID = torch.cat([model.eval().video_vectors() for model in models], dim=1)
        self.register_buffer("videos", videos_ID, persistent=False)

    @torch.no_grad()
    def forward(
        self, batch: Batch, task: str, mask_history: bool, chunk: int, sampler_steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `MealRec.target_rank`; there is no other task."""
        if task != "target_rank":
            raise ValueError(f"task is {task!r}, expected target_rank")
        vectors = []
        for model, seed in zip(self.models, self.seeds, strict=True):
            own: Batch = {**batch, "seed": torch.full_like(batch["seed"], seed)}
            vectors.append(cast(MealRec, model).user_vectors(own, sampler_steps))
        seen = (batch["history"], batch["history_row"]) if mask_history else None
        users_BD, target_B = torch.cat(vectors, dim=1), batch["target"]
        return ranking.target_rank(users_BD, self.videos, target_B, seen, chunk)
