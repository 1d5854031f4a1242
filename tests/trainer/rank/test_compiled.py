"""torch.compile of the losses: the same numbers, no graph break, few graphs; one line where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.fx.experimental import _config as symbolic_sizes

from mealrec import MealRec, MealRecConfig
from tests.trainer import runs
from trainer import ds_config
from trainer.batching import resolve
from trainer.config import DataConfig, RunConfig
from trainer.distributed import World
from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.options import put
from trainer.rank.compiled import compile_losses
from trainer.rank.nonfinite import offending_rows

GRAPHS = {"sasrec": 1, "nextitnet": 1, "gru4rec": 6}
"""Of an epoch; gru4rec has its GRU between them, in each of three functions."""


@pytest.fixture(autouse=True)
def fresh() -> Any:
    """Nothing compiled before, and PyTorch's settings as they were."""
    torch._dynamo.reset()
    dynamo = torch._dynamo.config.patch(fail_on_recompile_limit_hit=False)
    with dynamo, symbolic_sizes.patch(use_duck_shape=True):
        yield
    torch._dynamo.reset()


def opened(data: Path, cache: Path, **changes: object) -> tuple[Inputs, MealRec]:
    config = MealRecConfig(dim=16)
    for name, value in changes.items():
        put(config, name.replace("__", "."), value)
    inputs = Inputs(DataConfig(path=str(data), max_length=20, cache_dir=str(cache)), config, World(), seed=3)
    return inputs, inputs.build_model()


def epoch(inputs: Inputs, model: MealRec) -> list[list[float]]:
    """The losses and the gradient's norm of every micro-batch of an epoch; the weights stay as they are."""
    found = []
    for step, micro_batches in enumerate(inputs.train_stream(resolve(32, 16, 1), few_sizes=True).epoch(0)):
        for loaded in micro_batches:
            model.zero_grad()
            batch = inputs.on_device(loaded, step)
            losses = model(batch)
            model.objective(losses, model.counts(batch)).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            found.append([*(float(loss.detach()) for loss in losses.values()), float(norm)])
    return found


def check(data: Path, cache: Path, graphs: int, **changes: object) -> None:
    """Train an epoch compiled and not: the same to rounding, with so many graphs."""
    inputs, model = opened(data, cache, **changes)
    expected = epoch(inputs, model)
    counter = CompileCounter()
    compile_losses(model, backend=counter)
    tried = counter.frame_count
    counters.clear()
    np.testing.assert_allclose(epoch(inputs, model), expected, rtol=1e-5)
    assert counter.frame_count - tried == graphs
    assert bool(counters["graph_break"]) == (graphs > 1)


def test_one_graph_for_all_batches(data: Path, cache: Path) -> None:
    check(data, cache, graphs=1, use_video=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_one_graph_with_both_modules(data: Path, cache: Path, name: str) -> None:
    check(data, cache, graphs=GRAPHS[name], backbone__name=name)


def test_more_graphs_than_allowed_end_the_run(data: Path, cache: Path) -> None:
    inputs, model = opened(data, cache, use_video=False, npd__enabled=False)
    compile_losses(model, backend="eager")
    batch = inputs.on_device(next(inputs.train_stream(resolve(32, 16, 1)).epoch(0))[0])
    with torch._dynamo.config.patch(recompile_limit=1):
        model(batch)
        with pytest.raises(Exception, match="recompile_limit"):
            model({**batch, "global_step": torch.zeros(1, dtype=torch.int64)})


def test_rows_of_a_loss_that_is_not_finite_are_found_without_compiling(data: Path, cache: Path) -> None:
    inputs, model = opened(data, cache, use_video=False, npd__enabled=False)
    counter = CompileCounter()
    compile_losses(model, backend=counter)
    tried = counter.frame_count
    batch = inputs.on_device(next(inputs.train_stream(resolve(32, 16, 1), few_sizes=True).epoch(0))[0])
    with torch.compiler.set_stance("force_eager"):
        assert offending_rows(model, batch) == []
    assert counter.frame_count == tried


def test_where_nothing_can_be_compiled_one_line_says_why(data: Path, cache: Path) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no compiler here")

    _, model = opened(data, cache, use_video=False)
    with pytest.raises(UserError, match=r"--train.compile: .* on cpu: .*no compiler here.*") as caught:
        compile_losses(model, backend=broken)
    assert "\n" not in str(caught.value)


def test_zero_3_is_refused_before_the_start() -> None:
    config = RunConfig()
    config.train.compile, config.train.zero_stage = "default", 3
    with pytest.raises(UserError, match="--train.compile needs ZeRO stage 0, 1 or 2"):
        ds_config.engine_config(config, resolve(32, 16, 1), on_gpu=False, has_bf16=False, run_dir=None)


@pytest.mark.slow
def test_a_compiled_run_trains_to_the_same(workplace: Path, data: Path, cache: Path) -> None:
    """By the real compiler and in DeepSpeed's engine; without TCD, most of what there is to compile."""
    made = {mode: workplace / f"compile-{mode}" for mode in ("none", "default")}
    small: dict[str, object] = {"model__use_video": "false", "train__zero_stage": 1, "train__max_epochs": 1}
    commands = [runs.arguments(run, data, train__compile=mode, **small) for mode, run in made.items()]
    assert runs.train_several(1, commands, cache) == [None, None]
    names = ("loss", "loss_rec", "loss_npd", "grad_norm")
    expected, actual = (
        [[record[name] for name in names] for record in runs.records(run) if "loss" in record]
        for run in made.values()
    )
    assert len(expected) == 7
    np.testing.assert_allclose(actual, expected, rtol=2e-5)
