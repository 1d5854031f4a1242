"""Evaluation by full ranking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from mealrec import MealRec, metrics
from shards import Batch, EvalStream
from trainer import activity, distributed
from trainer.config import EvalConfig
from trainer.evaluation.fusion import Fusion
from trainer.evaluation.ranks import Collector
from trainer.inputs import Inputs

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

Metrics = dict[str, Any]
"""hr@K, ndcg@K and mrr, means over users, and their number `users`."""


def evaluate(
    model: MealRec | DeepSpeedEngine | Fusion,
    batches: Iterable[Batch],
    inputs: Inputs,
    settings: EvalConfig,
    sampler_steps: int,
    collector: Collector | None = None,
) -> Metrics:
    """Return the metrics over all users of all ranks.

    Sums over users are float64 and are reduced over ranks once, at the end, so that ranks and batches change
    nothing.

    Args:
        model: called with `task="target_rank"` in evaluation mode, left as it was.
        batches: `inputs.eval_stream` of a split.
        sampler_steps: of the reverse chains; 0: the full chain.
        collector: gets each user's rank.
    """
    sums: dict[str, torch.Tensor] = {}
    training, _ = model.training, model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                placed = inputs.on_device(batch)
                greater, equal = model(
                    placed,
                    task="target_rank",
                    mask_history=settings.mask_history,
                    chunk=settings.chunk,
                    sampler_steps=sampler_steps,
                )
                add(sums, metrics.metric_sums(greater, equal, placed["weight"]))
                if collector is not None:
                    collector.add(batch, greater, equal)
                activity.note()
    finally:
        model.train(training)
    return finish(sums)


def guards(model: MealRec | DeepSpeedEngine, batches: EvalStream, inputs: Inputs) -> dict[str, float]:
    """Return the model's guards against collapse for this rank's first batch, rounded for the log."""
    training, _ = model.training, model.eval()
    try:
        values = model(inputs.on_device(next(iter(batches))), task="guards")
    finally:
        model.train(training)
    rounded = (round(value, 4) for value in torch.stack([*values.values()]).tolist())
    return dict(zip(values, rounded, strict=True))


def evaluate_popularity(
    train_counts: torch.Tensor,
    batches: Iterable[Batch],
    videos: int,
    *,
    mask_history: bool,
    device: torch.device | str = "cpu",
) -> Metrics:
    """Return the metrics where a video's training count is its score: the floor of a result.

    Args:
        train_counts: int64 [I+1], row 0 the padding.
        device: where the sums are reduced over ranks.
    """
    sums: dict[str, torch.Tensor] = {}
    ascending = train_counts[1:].sort().values
    for batch in batches:
        own = train_counts[batch["target"]]
        greater = videos - torch.searchsorted(ascending, own, right=True)
        equal = videos - greater - torch.searchsorted(ascending, own) - 1
        if mask_history:
            # Videos of the history leave the ranking, each once, the target itself never.
            seen = torch.unique(torch.stack([batch["history_row"], batch["history"]]), dim=1)
            seen = seen[:, seen[1] != batch["target"][seen[0]]]
            count = train_counts[seen[1]]
            greater.index_add_(0, seen[0], -(count > own[seen[0]]).long())
            equal.index_add_(0, seen[0], -(count == own[seen[0]]).long())
        add(sums, metrics.metric_sums(greater, equal.clamp_min(0), batch["weight"]))
        activity.note()
    return finish({name: value.to(device) for name, value in sums.items()})


def add(sums: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> None:
    """Add float64 sums by name, in place."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def finish(sums: dict[str, torch.Tensor]) -> Metrics:
    """Reduce the sums over ranks, once, and divide."""
    total = distributed.all_reduce_sum(torch.stack(list(sums.values())))
    return metrics.finish(dict(zip(sums, total.cpu(), strict=True)))
