"""A GPU makes the host wait at most once for a training step, and once for a batch of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from mealrec import Batch, MealRec, MealRecConfig
from tests.trainer import simulated_cuda
from tests.trainer.simulated_cuda import CUDA, Simulation
from trainer.batching import resolve
from trainer.config import DataConfig, EvalConfig
from trainer.distributed import World
from trainer.evaluation import evaluate
from trainer.inputs import Inputs
from trainer.options import put
from trainer.rank.step import TrainStep

T = TypeVar("T")

CASES = {
    "sasrec": {},
    "gru4rec": {"backbone.name": "gru4rec"},
    "nextitnet": {"backbone.name": "nextitnet"},
    "sampled softmax": {"objective.softmax": "sampled", "objective.negatives": 16},
    "no features": {"use_video": False},
    "no TCD": {"tcd.enabled": False},
    "no NPD": {"npd.enabled": False},
    "backbone": {"use_video": False, "npd.enabled": False},
    "videos": {"tcd.target": "video"},
    "ddpm": {"tcd.sampler": "ddpm", "npd.sampler": "ddpm", "tcd.guidance": 1.0, "feature_noise": 0.1},
    "PyTorch's operations": {"kernel": "reference"},
}


class PlainEngine:
    """What `TrainStep` uses of DeepSpeed's engine, without an optimiser: its own waits are not ours.

    wrapped: as with ZeRO and bf16, the optimiser's wrapper keeps the gradient's norm, on the device.
    """

    def __init__(self, module: MealRec, wrapped: bool) -> None:
        self.module, self.wrapped = module, wrapped
        self.config: dict[str, object] = {}

    def __call__(self, batch: Batch) -> object:
        return self.module(batch)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        pass

    def bfloat16_enabled(self) -> bool:
        return self.wrapped

    def fp16_enabled(self) -> bool:
        return False

    def was_step_applied(self) -> bool:
        return True

    def get_lr(self) -> list[float]:
        return [0.0]

    def get_global_grad_norm(self) -> torch.Tensor:
        return torch.ones((), device=CUDA)


def opened(
    data: Path, cache: Path, changes: dict[str, object], feature_memory: str = "host"
) -> tuple[Inputs, MealRec]:
    """The data set and a model on the simulated GPU."""
    config = MealRecConfig(dim=16)
    for name, value in changes.items():
        put(config, name, value)
    settings = DataConfig(path=str(data), max_length=20, cache_dir=str(cache), feature_memory=feature_memory)
    inputs = Inputs(settings, config, World(device=CUDA), seed=3)
    model = inputs.build_model()
    simulated_cuda.move(model)
    return inputs, model


def counted(simulated: Simulation, batches: Iterable[T], waits: list[list[str]]) -> Iterator[T]:
    """The batches; `waits` gets what the host waited for from each one to the next."""
    for batch in batches:
        simulated.waits.clear()
        yield batch
        waits.append([*simulated.waits])


def most(waits: list[list[str]]) -> list[str]:
    """The most waits for one batch; the first is left out, as it also makes what the others use again."""
    assert len(waits) > 1
    return max(waits[1:], key=len)


@pytest.mark.parametrize(
    ("case", "feature_memory"), [*((case, "host") for case in CASES), ("sasrec", "device")]
)
def test_training(data: Path, cache: Path, case: str, feature_memory: str) -> None:
    waits: list[list[str]] = []
    with simulated_cuda.simulation() as simulated:
        inputs, model = opened(data, cache, CASES[case], feature_memory)
        engine = PlainEngine(model, wrapped=feature_memory == "device")
        take_step = TrainStep(engine, inputs.world, on_device=inputs.on_device, learning_rates=None)
        stream = inputs.train_stream(resolve(128, 64, 1))
        steps = counted(simulated, islice(stream.epoch(0), 2), waits)
        losses = [take_step(batches, 0, number).loss for number, batches in enumerate(steps)]
    assert len(losses) == 2 and losses[0] > 1
    assert len(most(waits)) == 1, most(waits)  # the loss and its parts


@pytest.mark.parametrize("case", CASES)
def test_evaluation(data: Path, cache: Path, case: str) -> None:
    waits: list[list[str]] = []
    settings = EvalConfig(batch_size=200, chunk=50)
    with simulated_cuda.simulation() as simulated:
        inputs, model = opened(data, cache, CASES[case], feature_memory="device")
        stream = inputs.eval_stream("test", settings)
        batches = counted(simulated, stream, waits)
        result = evaluate.evaluate(model, batches, inputs, settings, sampler_steps=0)
        assert len(most(waits)) <= 1, most(waits)
        simulated.waits.clear()
        guards = evaluate.guards(model, stream, inputs)
        assert len(simulated.waits) <= 1, simulated.waits
    assert result["users"] == 398 and 0 < result["mrr"] < 1
    assert guards["preference_variance"] > 0


@pytest.mark.parametrize("case", CASES)
def test_recommendation(data: Path, cache: Path, case: str) -> None:
    waits: list[list[str]] = []
    settings = EvalConfig(batch_size=200)
    with simulated_cuda.simulation() as simulated, torch.no_grad():
        inputs, model = opened(data, cache, CASES[case])
        for batch in counted(simulated, inputs.eval_stream("test", settings), waits):
            _, videos = model.eval()(inputs.on_device(batch), task="top", k=10, chunk=50)
            assert len(videos.tolist()) == 200
    assert len(most(waits)) == 1, most(waits)  # the videos


def test_a_wait_is_recorded_with_its_place() -> None:
    with simulated_cuda.simulation() as simulated:
        ones = torch.ones(4, device=CUDA)
        assert ones.nonzero().device == CUDA and ones[ones > 0].sum().item() == 4
        ones[1] = 0  # no wait
        torch.tensor([1, 2], device=CUDA), torch.zeros(3).to(CUDA, non_blocking=True)
        torch.zeros(3).pin_memory().to(CUDA, non_blocking=True)  # no wait
    assert [wait.split(" at ")[0] for wait in simulated.waits] == [
        "aten.nonzero.default",
        "aten.index.Tensor",
        "aten._local_scalar_dense.default",
        *["copy from pageable memory, aten._to_copy.default,"] * 2,
    ]


def test_mixed_devices_are_an_error() -> None:
    with (
        simulated_cuda.simulation(),
        pytest.raises(AssertionError, match=r"aten.add.Tensor mixes devices"),
    ):
        torch.ones(2, device=CUDA) + torch.ones(2)
