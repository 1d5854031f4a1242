"""Two runs of one data set, and their page, made once for the tests of this folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec import MealRec
from tests.trainer.report.pages import Page
from trainer.config import RunConfig
from trainer.evaluation.run import open_inputs, open_run, single_world
from trainer.inputs import Inputs
from trainer.report import command

HOSTILE = "<img src=x onerror=alert(1)> & <b>bold"


@dataclass(frozen=True)
class Ranked:
    """A run with the scores of all videos for its test users, in the order of their ids."""

    path: Path
    inputs: Inputs
    model: MealRec
    config: RunConfig
    users: np.ndarray
    targets: np.ndarray  # numbers of videos
    seen: list[set[int]]
    lengths: np.ndarray
    scores: np.ndarray  # [U, I], of what the user has seen, too

    def hidden_scores(self, scores: np.ndarray) -> np.ndarray:
        """Scores with what each user has seen at -inf, but for the target."""
        hidden = scores.copy()
        for row, (videos, target) in enumerate(zip(self.seen, self.targets.tolist(), strict=True)):
            hidden[row, [video - 1 for video in videos - {target}]] = -np.inf
        return hidden


def rank(path: Path, cache: Path) -> Ranked:
    """Open a run and score all videos for all of its test users."""
    config, best = open_run(str(path), None)
    config.data.cache_dir = str(cache)
    inputs = open_inputs(config, best, single_world())
    model = best.model(inputs).eval()
    rows = []
    for batch in inputs.eval_stream("test", config.eval):
        placed = inputs.on_device(batch)
        scores = all_scores(model, placed)
        for row in np.flatnonzero(batch["weight"].numpy()).tolist():
            history = batch["history"][batch["history_row"] == row].tolist()
            user, target = int(batch["sample_id"][row]), int(batch["target"][row])
            rows.append((user, target, set(history), len(history), scores[row]))
    rows.sort(key=lambda row: row[0])
    users, targets, seen, lengths, scores = zip(*rows, strict=True)
    return Ranked(
        path=path,
        inputs=inputs,
        model=model,
        config=config,
        users=np.array(users),
        targets=np.array(targets),
        seen=list(seen),
        lengths=np.array(lengths),
        scores=np.stack(scores),
    )


def all_scores(model: MealRec, batch: dict) -> np.ndarray:
    """The score of each video for each user of a batch, [B, I]."""
    with torch.no_grad():
        scores, items = model(batch, task="top", k=model.config.videos, mask_history=False)
    table = np.empty_like(scores.numpy())
    np.put_along_axis(table, items.numpy() - 1, scores.numpy(), axis=1)
    return table


def brute_ranks(ranked: Ranked) -> dict[str, np.ndarray]:
    """What ranks-test.parquet should hold, from the scores."""
    scores = ranked.hidden_scores(ranked.scores)
    own = scores[np.arange(len(scores)), ranked.targets - 1][:, None]
    return {
        "above": (scores > own).sum(1),
        "equal": (scores == own).sum(1) - 1,
        "history": ranked.lengths,
        "count": ranked.inputs.index.train_counts()[ranked.targets],
    }


@pytest.fixture(scope="package")
def ranked(one_rank: dict[str, Path], cache: Path, workplace: Path) -> list[Ranked]:
    """The plain run and the one in bf16, copies; the second has a hostile name."""
    copies = []
    for name, copy in (("whole", "whole"), ("bf16", HOSTILE)):
        path = workplace / "reported" / copy
        shutil.copytree(one_rank[name], path)
        copies.append(rank(path, cache))
    return copies


@pytest.fixture(scope="package")
def page_file(ranked: list[Ranked], cache: Path, workplace: Path) -> Path:
    """The page of both runs."""
    file = workplace / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEALREC_CACHE", str(cache))
        assert command.main([*(str(run.path) for run in ranked), "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="package")
def page(page_file: Path) -> Page:
    """The page of both runs, read."""
    return Page(page_file.read_text())
