"""Batches with few sizes train to the same, and hold no size that depends on the data: a step can be captured."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch

import shards
from mealrec import Batch, MealRec, MealRecConfig
from tests.trainer import simulated_cuda
from tests.trainer.test_host_waits import CASES, opened
from trainer.batching import resolve
from trainer.config import DataConfig
from trainer.distributed import World
from trainer.inputs import Inputs
from trainer.options import put

BATCHING = resolve(32, 16, 1)
TRAINED = {
    name: CASES[name] for name in ("sasrec", "gru4rec", "nextitnet", "sampled softmax", "backbone", "videos")
} | {"noise on features": {"feature_noise": 0.1}}


def gradients(model: MealRec, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses with their counts, and the gradients of the objective."""
    model.zero_grad()
    losses, counts = model(batch), model.counts(batch)
    model.objective(losses, counts).backward()
    return [*losses.values(), *counts.values()], [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("case", TRAINED)
def test_losses_and_gradients_are_the_same(data: Path, cache: Path, case: str) -> None:
    config = MealRecConfig(dim=16)
    for name, value in TRAINED[case].items():
        put(config, name, value)
    inputs = Inputs(DataConfig(path=str(data), max_length=20, cache_dir=str(cache)), config, World(), seed=3)
    model = inputs.build_model()
    exact, few = (inputs.train_stream(BATCHING, few_sizes=asked).epoch(0) for asked in (False, True))
    added = 0
    for step, (before, after) in enumerate(zip(exact, few, strict=True)):
        if step % 6:
            continue
        for one, other in zip(before, after, strict=True):
            added += len(other["real_index"]) - len(one["real_index"])
            expected, actual = (gradients(model, inputs.on_device(batch, step)) for batch in (one, other))
            torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=0)
            largest = max(float(gradient.abs().max()) for gradient in expected[1])
            torch.testing.assert_close(actual[1], expected[1], rtol=1e-4, atol=1e-6 * largest)
    assert added > 0


def sizes(batch: shards.Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in batch.values())


@pytest.mark.parametrize("case", TRAINED)
def test_a_step_depends_on_sizes_alone(data: Path, cache: Path, case: str) -> None:
    """What a captured graph needs: no wait up to the gradients, and the same operators for other values."""
    with simulated_cuda.simulation() as simulated:
        inputs, model = opened(data, cache, TRAINED[case])
        alike: dict[object, list[shards.Batch]] = defaultdict(list)
        for micro_batches in inputs.train_stream(BATCHING, few_sizes=True).epoch(0):
            for batch in micro_batches:
                alike[sizes(batch)].append(batch)
        # By their real positions: the first and the last of the largest group.
        chosen = sorted(max(alike.values(), key=len), key=lambda batch: int((batch["item"] > 0).sum()))
        assert int((chosen[-1]["item"] > 0).sum()) > int((chosen[0]["item"] > 0).sum())
        batches = [inputs.on_device(batch, 7) for batch in (chosen[0], chosen[-1])]
        gradients(model, batches[0])  # makes what the others use again
        traces = []
        for batch in batches:
            simulated.waits.clear()
            simulated.calls.clear()
            gradients(model, batch)
            assert simulated.waits == []
            traces.append([*simulated.calls])
    assert len(traces[0]) > 100
    assert traces[1] == traces[0]
