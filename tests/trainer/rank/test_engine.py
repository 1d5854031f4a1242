"""Learning rate and parameter groups; offloading, where there is a compiler."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec import Batch, MealRec, MealRecConfig
from tests.trainer import runs
from trainer import distributed, ds_config
from trainer.batching import resolve
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.evaluation.run import single_world
from trainer.launch import machine
from trainer.rank import engine


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is the one rank of a run."""
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(machine.free_port()))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    distributed.init()
    yield
    distributed.shutdown()


def make_batch() -> Batch:
    """Eight histories of five videos, with random frames."""
    generator = torch.Generator().manual_seed(1)
    item, target = torch.randint(1, 31, (2, 8, 5), generator=generator)
    return {
        "sample_id": torch.arange(8),
        "item": item,
        "target": target,
        "features": torch.randn(31, 3, 8, generator=generator),
        "frames": torch.full((31,), 3),
        "feature_row": item,
    }


@pytest.mark.parametrize("begin", [distributed.init, single_world])
def test_attention_is_never_cudnns(alone: None, begin: Callable[[], object]) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    begin()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def rates(total: int, **settings: object) -> list[float]:
    return [engine.learning_rates(step, total, TrainConfig(lr=2.0, **settings))[0] for step in range(total)]


def test_the_id_table_has_a_rate_of_its_own() -> None:
    train = TrainConfig(lr=2.0, table_lr=6.0, warmup_steps=2, decay="linear")
    rates_of_steps = [engine.learning_rates(step, 6, train) for step in range(6)]
    assert [table for _, _, table in rates_of_steps] == [3.0, 6.0, 6.0, 4.5, 3.0, 1.5]
    assert all(weights == others == table / 3 for weights, others, table in rates_of_steps)


def test_warm_up_and_decay() -> None:
    assert rates(4, decay="constant") == [2.0] * 4
    assert rates(6, decay="constant", warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(6, decay="linear", warmup_steps=2) == [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    cosine = rates(10, decay="cosine")
    assert cosine[0] == 2.0 and cosine[5] == pytest.approx(1.0)
    assert cosine[9] == pytest.approx(1 + math.cos(0.9 * math.pi))
    assert rates(3, decay="linear", warmup_steps=9)[-1] == pytest.approx(2 / 3)  # warm-up longer than the run


def test_only_matrices_decay() -> None:
    model = MealRec(MealRecConfig(videos=30, frames=3, width=8, dim=16, item_bias=True))
    train = TrainConfig(weight_decay=0.1, table_decay=0.2)
    decayed, others, table = engine.parameter_groups(model, train)
    assert [group["weight_decay"] for group in (decayed, others, table)] == [0.1, 0.0, 0.2]
    assert len(table["params"]) == 1 and table["params"][0] is model.item
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(others["params"]) + 1 == len(names)
    assert {"item", "bias", "position", "no_video"} <= set(names.values()) - decayed_names
    assert all("weight" in name and "norm" not in name for name in decayed_names)
    assert "video.project.weight" in decayed_names


def test_content_alone_trains_and_ranks(workplace: Path, data: Path, cache: Path) -> None:
    """Without an ID table the optimiser has a group less; DeepSpeed keeps no empty ones."""
    folders = {stage: workplace / f"content-{stage}" for stage in (0, 1)}
    commands = [
        runs.arguments(
            folder,
            data,
            model__use_ids="false",
            train__table_lr=0.004,
            train__max_epochs=1,
            train__zero_stage=stage,
        )
        for stage, folder in folders.items()
    ]
    assert runs.train_several(1, commands, cache) == [None, None]
    np.testing.assert_allclose(*(runs.losses(folder) for folder in folders.values()), rtol=1e-4)
    assert json.loads((folders[0] / "results.json").read_text())["test"]["hr@20"] > 0


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


def test_bf16_without_zero_has_the_plain_optimiser(alone: None, caplog: pytest.LogCaptureFixture) -> None:
    """Parameters and gradients stay in float32. DeepSpeed's own bf16, by a user's JSON, is warned of."""
    train, batching = TrainConfig(precision="bf16", tensorboard=False), resolve(8, 8, 1)
    settings = ds_config.derive(train, batching, precision="bf16")
    config = MealRecConfig(videos=30, frames=3, width=8, dim=16)
    with caplog.at_level("WARNING", logger="mealrec"):
        built = engine.build(MealRec(config), train, settings)
    assert type(built.optimizer) is torch.optim.AdamW and not caplog.records
    batch = make_batch()
    losses = built(batch)
    built.backward(built.module.objective(losses, built.module.counts(batch)))
    assert {p.grad.dtype for p in built.module.parameters() if p.grad is not None} == {torch.float32}
    exact = MealRec(config).train()(batch)
    for name, loss in losses.items():
        assert loss != exact[name] and float(loss.detach()) == pytest.approx(
            float(exact[name].detach()), rel=0.02
        )

    del settings["torch_autocast"]
    with caplog.at_level("WARNING", logger="mealrec"):
        built = engine.build(MealRec(config), train, settings | {"bf16": {"enabled": True}})
    assert type(built.optimizer).__name__ == "FP16_UnfusedOptimizer"
    assert "waits for each" in caplog.text and len(caplog.records) == 1
