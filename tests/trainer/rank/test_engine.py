"""Learning rate and parameter groups; offloading, where there is a compiler."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from mealrec import MealRec, MealRecConfig
from tests.trainer import runs
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.rank import engine


def rates(total: int, **settings: object) -> list[float]:
    return [engine.learning_rate(step, total, TrainConfig(lr=2.0, **settings)) for step in range(total)]


def test_warm_up_and_decay() -> None:
    assert rates(4, decay="constant") == [2.0] * 4
    assert rates(6, decay="constant", warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(6, decay="linear", warmup_steps=2) == [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    cosine = rates(10, decay="cosine")
    assert cosine[0] == 2.0 and cosine[5] == pytest.approx(1.0)
    assert cosine[9] == pytest.approx(1 + math.cos(0.9 * math.pi))
    assert rates(3, decay="linear", warmup_steps=9)[-1] == pytest.approx(2 / 3)  # warm-up longer than the run


def test_only_matrices_decay() -> None:
    model = MealRec(MealRecConfig(videos=30, frames=3, width=8, dim=16))
    decayed, others = engine.parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert {"item", "position", "no_video"} <= set(names.values()) - decayed_names
    assert all("weight" in name and "norm" not in name for name in decayed_names)
    assert "video.project.weight" in decayed_names


def test_offload_without_a_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="install a C\\+\\+ compiler and ninja"):
        engine._adamw([], TrainConfig(), offload=True)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("ninja")), reason="no C++ compiler or no ninja")
def test_offloaded_optimiser_trains_to_the_same(
    workplace: Path, data: Path, cache: Path, one_rank: dict[str, Path]
) -> None:
    run = workplace / "offload"
    command = runs.arguments(
        run, data, train__zero_stage=2, train__offload_optimizer="true", train__max_epochs=3
    )
    assert runs.train_several(1, [command], cache) == [None]
    np.testing.assert_allclose(runs.losses(run), runs.losses(one_rank["whole"]), rtol=1e-4)
