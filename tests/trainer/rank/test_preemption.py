"""SIGUSR1 on one rank: all ranks save after the step at hand and end; the run continues as if nothing was."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.trainer import runs


def test_saves_and_continues_to_the_same_losses(workplace: Path, data: Path, cache: Path) -> None:
    whole, run = workplace / "not-preempted", workplace / "preempted"
    settings = {"train__max_epochs": 2, "train__save_every_steps": 0}
    assert runs.train_several(2, [runs.arguments(whole, data, **settings)], cache) == [None]

    arguments = runs.arguments(run, data, **settings)
    ranks = runs.start(2, ["-m", "trainer", *arguments], cache)
    while len(runs.losses(run)) < 2:
        assert ranks[0].poll() is None
        time.sleep(0.01)
    ranks[1].send_signal(signal.SIGUSR1)
    ended = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "error: preempted: saved after step" in ended[0]
    assert not (run / "results.json").exists() and len(runs.losses(run)) < len(runs.losses(whole))

    ranks = runs.start(2, ["-m", "trainer", *arguments, "--resume"], cache)
    ended = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended[0][-2000:]
    assert runs.losses(run) == runs.losses(whole)
