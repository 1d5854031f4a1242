"""A peer's side of a baseline: it trains until validation stops rising, and can be cut off at any time.

In the folder of a baseline are

    state          the peer's own, after the last epoch
    progress.json  epochs, core-seconds, and validation NDCG@10 of each epoch
    best.npz       of the best epoch: for both splits, `SPLIT user` and `SPLIT place`, int64 [users]

A place is the position of the user's target among all videos that are not in the history, 0 for the first;
BEYOND for one that is not among the first 20. This file needs NumPy alone: peers have interpreters of their
own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

BEYOND = 1 << 30
SPLITS = ("valid", "test")


@dataclass
class Progress:
    """What has been done: epochs, core-seconds of training, and validation NDCG@10 of each epoch."""

    package: str
    version: str
    model: str
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The best epoch, from 1; 0 before any."""
        return int(np.argmax(self.scores)) + 1 if self.scores else 0


class Fitted(Protocol):
    """A peer's model."""

    def train(self) -> None:
        """Train for an epoch."""

    def places(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Users of a split and the places of their targets."""

    def save(self, path: Path) -> None:
        """Write all that a later `load` needs to go on."""

    def load(self, path: Path) -> None:
        """Go on from there."""


def ndcg(place: np.ndarray) -> float:
    """Mean NDCG@10 of places."""
    return float(np.where(place < 10, 1 / np.log2(place + 2.0), 0).mean())


def fit(folder: Path, model: Fitted, progress: Progress, patience: int, max_epochs: int) -> None:
    """Train until `patience` epochs are no better than the best one, and keep that one's places."""
    folder.mkdir(parents=True, exist_ok=True)
    state, file = folder / "state", folder / "progress.json"
    if file.exists():
        progress.seconds, progress.scores = (json.loads(file.read_text())[n] for n in ("seconds", "scores"))
        model.load(state)
    while len(progress.scores) < max_epochs and len(progress.scores) - progress.best < patience:
        begin = time.process_time()
        model.train()
        progress.seconds += time.process_time() - begin
        of_split = {split: model.places(split) for split in SPLITS}
        progress.scores.append(ndcg(of_split["valid"][1]))
        if progress.best == len(progress.scores):
            _replace(folder / "best.npz", partial(_write_places, of_split))
        _replace(state, model.save)
        _replace(file, partial(_write_progress, progress))
        print(f"epoch {len(progress.scores)}: validation NDCG@10 {progress.scores[-1]:.4f}", flush=True)


def _write_progress(progress: Progress, path: Path) -> None:
    path.write_text(json.dumps(asdict(progress)))


def _write_places(of_split: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    arrays = {}
    for split, (user, place) in of_split.items():
        order = np.argsort(user)
        arrays |= {f"{split} user": user[order], f"{split} place": place[order]}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f"{path.name}.partial")
    write(unfinished)
    os.replace(unfinished, path)
