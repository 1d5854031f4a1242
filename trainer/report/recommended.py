"""What a run's best weights recommend to the users of a split, and what its two modules do there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import mealrec
from mealrec import MealRec, metrics, ranking
from mealrec.batch import real_index
from trainer.config import EvalConfig
from trainer.errors import UserError
from trainer.evaluation.run import open_inputs, open_run, single_world
from trainer.inputs import Inputs
from trainer.report.frame_weights import FrameWeights, FrameWeightSums, choose_videos
from trainer.report.statistics import Catalogue, Estimate, catalogue, estimates

TOP = 10
NDCG = f"ndcg@{TOP}"


@dataclass(frozen=True)
class NPDChange:
    """What NPD changes in the rankings: as trained, against the same weights with `npd.mix` at 0.

    other_first: share of the users whose first video is another one. overlap: mean share of a list that both
    have. ndcg, ndcg_without, difference: NDCG@10 of both, and the first less the second.
    """

    mix: float
    other_first: float
    overlap: float
    ndcg: Estimate
    ndcg_without: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Recommended:
    """The top 10 of `users` users in figures.

    of_recommended, of_targets: what recommended videos are like, and what the users went on to watch. npd:
    None without NPD; frames: empty without pooling over frames.
    """

    users: int
    videos: int
    of_recommended: Catalogue
    of_targets: Catalogue
    npd: NPDChange | None
    frames: list[FrameWeights]


def recommend(run: Path, split: str, data: str | None, with_pictures: set[str] | None) -> Recommended:
    """Rank all videos for every user of a split with a run's best weights, as at the end of the run.

    data: another address of the data set; with_pictures: ids of the videos whose frames can be shown, which
    alone are then looked at.

    Raises:
        UserError, DataError: a mistake in the run or the data, or no users in the split.
    """
    config, best = open_run(str(run), data)
    inputs = open_inputs(config, best, single_world())
    stream = inputs.eval_stream(split, config.eval)
    if not stream.users:
        raise UserError(f"{inputs.index.path}: no users in the {split} split")
    model, settings = best.model(inputs).eval(), config.eval
    sums = FrameWeightSums(model, choose_videos(inputs, with_pictures))
    parts: list[_Part] = []
    E_ID = model.video_vectors()
    with torch.no_grad(), _inputs_of(model) as seen:
        for batch in stream:
            placed = inputs.on_device(batch)
            parts.append(_rank(model, E_ID, placed, seen, settings))
            if "pool" in seen:
                sums.add(placed["item"].flatten()[real_index(placed)], *seen["pool"])
    return _summary(parts, inputs, model, sums)


@dataclass
class _Part:
    """A batch's real users: targets [U], and by ranking ("whole", "without" NPD) lists [U, 10] and NDCG."""

    target: np.ndarray
    top: dict[str, np.ndarray] = field(default_factory=dict)
    ndcg: dict[str, np.ndarray] = field(default_factory=dict)


@contextmanager
def _inputs_of(model: MealRec) -> Iterator[dict[str, tuple[torch.Tensor, ...]]]:
    """Within, a dict holds what NPD and TCD's pooling were last given: `h` is the ranking without NPD."""
    seen: dict[str, tuple[torch.Tensor, ...]] = {}

    def keep(name: str, module: torch.nn.Module) -> Any:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], _output: object) -> None:
            seen[name] = arguments

        return module.register_forward_hook(hook)

    hooks = [keep("npd", model.npd)] if model.config.npd.enabled else []
    if model.config.has_tcd and model.tcd.pool is not None:
        hooks.append(keep("pool", model.tcd.pool))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _rank(
    model: MealRec,
    E_ID: torch.Tensor,
    batch: mealrec.Batch,
    seen: dict[str, tuple[torch.Tensor, ...]],
    settings: EvalConfig,
) -> _Part:
    """Rank the users of a batch by their preferences after NPD and, where there is one, before it."""
    real = batch["weight"] > 0
    vectors = {"whole": model.user_vectors(batch, settings.test_sampler_steps)}
    if "npd" in seen:
        h_BD = seen["npd"][0]
        vectors["without"] = h_BD if model.bias is None else F.pad(h_BD, (0, 1), value=1.0)
    hidden = (batch["history"], batch["history_row"]) if settings.mask_history else None
    part = _Part(batch["target"][real].cpu().numpy())
    for name, u_BD in vectors.items():
        above, equal = ranking.target_rank(u_BD, E_ID, batch["target"], hidden, kernel=model.config.kernel)
        score, video = ranking.top(u_BD, E_ID, TOP, hidden)
        part.ndcg[name] = metrics.gains(above[real], equal[real])[NDCG].cpu().numpy()
        # Where the history leaves fewer than ten videos, the last places have none.
        part.top[name] = video.masked_fill(score == float("-inf"), 0)[real].cpu().numpy()
    return part


def _summary(parts: list[_Part], inputs: Inputs, model: MealRec, sums: FrameWeightSums) -> Recommended:
    counts = inputs.index.train_counts()
    target = np.concatenate([part.target for part in parts])
    names = list(parts[0].top)
    top = {name: np.concatenate([part.top[name] for part in parts]) for name in names}
    ndcg = {name: np.concatenate([part.ndcg[name] for part in parts]) for name in names}
    whole = top["whole"]
    return Recommended(
        users=len(target),
        videos=inputs.index.videos,
        of_recommended=catalogue(whole[whole > 0], counts),
        of_targets=catalogue(target, counts),
        npd=npd_change(top, ndcg, model.config.npd.mix) if "without" in top else None,
        frames=sums.finish(inputs.index.item_ids()),
    )


def npd_change(top: dict[str, np.ndarray], ndcg: dict[str, np.ndarray], mix: float) -> NPDChange:
    """Compare the lists [U, 10], videos 1..I and 0 for none, and the NDCG@10 [U] `whole` and `without`."""
    whole_UK, without_UK = top["whole"], top["without"]
    both_U = ((whole_UK[:, :, None] == without_UK[:, None, :]) & (whole_UK[:, :, None] > 0)).sum((1, 2))
    values = [ndcg["whole"], ndcg["without"], ndcg["whole"] - ndcg["without"]]
    return NPDChange(
        mix,
        float((whole_UK[:, 0] != without_UK[:, 0]).mean()),
        float((both_U / np.maximum((whole_UK > 0).sum(1), 1)).mean()),
        *estimates(np.stack(values, axis=1)),
    )
