"""Ranks, micro-batches and ZeRO stages change nothing but rounding, with dropout and sampled negatives on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer import runs
from trainer import ds_config, options
from trainer.distributed import World
from trainer.inputs import Inputs
from trainer.rank import engine

GOLDEN = Path(__file__).with_name("golden_losses.json")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_train_as_one(one_rank: dict[str, Path], two_ranks: dict[int, Path], stage: int) -> None:
    expected, actual = np.array(runs.losses(one_rank["whole"])), np.array(runs.losses(two_ranks[stage]))
    assert len(expected) == runs.STEPS
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_plain_torch_trains_to_the_same(one_rank: dict[str, Path], cache: Path) -> None:
    """One process, the whole batch at once, torch's own clipping and AdamW, no DeepSpeed."""
    config = options.load(one_rank["whole"] / "config.yaml")
    config.data.cache_dir, config.train.micro_batch_size = str(cache), config.train.batch_size
    inputs = Inputs(config.data, config.model, World(), config.seed)
    stream = inputs.train_stream(ds_config.settle_batching(config, 1, on_gpu=False))
    model = inputs.build_model()
    optimizer = torch.optim.AdamW(engine.parameter_groups(model, config.train))
    losses = []
    for step, (batch,) in enumerate(batches for epoch in range(3) for batches in stream.epoch(epoch)):
        batch = inputs.on_device(batch, step)
        loss = model.objective(model(batch), model.counts(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        rates = engine.learning_rates(step, runs.STEPS, config.train)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    np.testing.assert_allclose([row[1] for row in runs.losses(one_rank["whole"])], losses, rtol=1e-4)


@pytest.mark.parametrize("name", ["accumulated", "zero3"])
def test_accumulation_changes_nothing(one_rank: dict[str, Path], name: str) -> None:
    expected, actual = np.array(runs.losses(one_rank["whole"])), np.array(runs.losses(one_rank[name]))
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_evaluation_does_not_depend_on_ranks(one_rank: dict[str, Path], two_ranks: dict[int, Path]) -> None:
    one = runs.results(one_rank["whole"])
    for run in two_ranks.values():
        two = runs.results(run)
        for part in ("valid", "test", "popularity", "valid_in_training"):
            assert two[part] == pytest.approx(one[part], abs=2e-3), part  # rounding may swap near scores
        assert two["popularity"] == pytest.approx(one["popularity"], rel=1e-12)
        assert two["test"]["users"] == one["test"]["users"] == 398


def test_bf16_trains_to_about_the_same(one_rank: dict[str, Path]) -> None:
    actual = np.array(runs.losses(one_rank["bf16"]))
    expected = np.array(runs.losses(one_rank["whole"]))[: len(actual)]
    np.testing.assert_allclose(actual[:, 1], expected[:, 1], rtol=0.02)


def test_losses_are_those_that_were_committed(one_rank: dict[str, Path]) -> None:
    """Made by `python -m tests.trainer.rank.golden`; processors differ in the last digits."""
    golden = json.loads(GOLDEN.read_text())
    actual = [loss[1] for loss in runs.losses(one_rank["whole"])[:20]]
    np.testing.assert_allclose(actual, golden, rtol=1e-3)
    assert golden[0] == pytest.approx(math.log(33), rel=0.35)  # 32 negatives and the target, nearly uniform
