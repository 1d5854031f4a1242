"""Where the ranks of a restart go. Several hosts are in tests/cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.launch import placement
from trainer.launch.placement import Placement, place_again


@pytest.mark.parametrize(
    ("before", "left", "now"),
    [
        (4, 4, 4),
        (4, 3, 2),  # a batch of 512 cannot be divided among three
        (4, 1, 1),
        (2, 8, 2),  # no more than before
    ],
)
def test_on_the_gpus_that_are_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: int, left: int, now: int
) -> None:
    monkeypatch.setattr(placement, "_gpus", lambda: left)
    placed = place_again(RunConfig(), Placement(before, on_gpu=True), tmp_path, rank_lost=False)
    assert placed == Placement(now, on_gpu=True)


def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(placement, "_gpus", lambda: 0)
    with pytest.raises(UserError, match="no GPU is left to continue on"):
        place_again(RunConfig(), Placement(2, on_gpu=True), tmp_path, rank_lost=False)
    with pytest.raises(UserError, match="no rank is left to continue on"):
        place_again(RunConfig(), Placement(1, on_gpu=False), tmp_path, rank_lost=True)


def test_the_gpus_are_counted_by_a_process_of_its_own() -> None:
    """Without a driver there are none; what counts is that the answer is read."""
    import torch

    assert placement._gpus() == torch.cuda.device_count()
