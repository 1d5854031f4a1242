"""Baselines train until validation stops rising, and go on where they were cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.baselines import __main__ as baselines
from bench.baselines.fitting import BEYOND, Progress, fit, ndcg
from bench.report import read

PLACES = [30, 3, 0, 5, 2, 9, 0]  # of the one user's target after each epoch


class Scripted:
    """A model whose target has a given place after each epoch; it is cut off in one of them."""

    def __init__(self, cut_off: int = 0):
        self.epochs, self.cut_off = 0, cut_off

    def train(self) -> None:
        self.epochs += 1
        if self.epochs == self.cut_off:
            raise KeyboardInterrupt

    def places(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        place = PLACES[self.epochs - 1]
        return np.array([7, 2]), np.array([place if place < 20 else BEYOND, 100 + self.epochs])

    def save(self, path: Path) -> None:
        path.write_text(str(self.epochs))

    def load(self, path: Path) -> None:
        self.epochs = int(path.read_text())


def test_the_best_epoch_is_kept_and_patience_ends_it(tmp_path: Path) -> None:
    progress = Progress("peer", "1", "model")
    fit(tmp_path / "run", Scripted(), progress, patience=3, max_epochs=100)
    assert progress.scores == pytest.approx(
        [0, 0.5 / math.log2(5), 0.5, *(0.5 / math.log2(n) for n in (7, 4, 11))]
    )
    assert progress.best == 3
    best = np.load(tmp_path / "run" / "best.npz")
    assert best["test user"].tolist() == [2, 7] and best["test place"].tolist() == [103, 0]


def test_cut_off_it_goes_on_after_the_last_whole_epoch(tmp_path: Path) -> None:
    for cut_off in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "run", Scripted(cut_off), Progress("peer", "1", "model"), 3, 100)
    progress = Progress("peer", "1", "model")
    fit(tmp_path / "run", Scripted(), progress, patience=3, max_epochs=100)
    assert len(progress.scores) == 6 and progress.best == 3
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["scores"] == progress.scores
    fit(tmp_path / "run", Scripted(cut_off=7), progress, patience=3, max_epochs=100)  # nothing is left to do
    assert len(progress.scores) == 6


def test_gains_are_those_of_the_metrics() -> None:
    place = np.array([0, 1, 9, 10, 19, BEYOND])
    assert baselines.gains(place, "hr@10").tolist() == [1, 1, 1, 0, 0, 0]
    assert baselines.gains(place, "hr@20").tolist() == [1, 1, 1, 1, 1, 0]
    assert baselines.gains(place, "ndcg@10").mean() == pytest.approx(ndcg(place))


@pytest.mark.slow
def test_peers_are_trained_and_shown(
    make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(baseline.interpreter.exists() for baseline in baselines.BASELINES):
        pytest.skip("`make bench-peers` makes their environments")
    out = tmp_path / "out.csv"
    arguments = ["--data", str(make_data()), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    for epochs in ("1", "3"):
        monkeypatch.setattr("sys.argv", [baselines.__file__, *arguments, "--max-epochs", epochs])
        baselines.main()
        rows = read(out)
        assert {row["model"] for row in rows} == {b.name for b in baselines.BASELINES} and len(rows) == 6
        assert {row["epochs"] for row in rows} == {epochs}
        assert all(0 < float(row["hr@20"]) <= 1 for row in rows)
