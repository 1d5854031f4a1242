"""The moving average of the weights, against one of plain training, at every ZeRO stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer import runs
from trainer import checkpoint_files, ds_config, options
from trainer.distributed import World
from trainer.evaluation import weights
from trainer.inputs import Inputs
from trainer.rank import engine

DECAY = 0.6
STEPS = 7  # of one epoch


@pytest.fixture(scope="module")
def averaged(workplace: Path, data: Path, cache: Path) -> dict[int, Path]:
    """One epoch on two ranks with an average of the weights, for each ZeRO stage."""
    made = {stage: workplace / f"averaged{stage}" for stage in range(4)}
    settings = {"train__max_epochs": 1, "train__ema": DECAY, "train__decay": "constant"}
    settings |= {"train__table_lr": 0.004, "train__table_decay": 0.02, "model__item_bias": "true"}
    commands = [
        runs.arguments(run, data, train__zero_stage=stage, num_gpus=2, **settings)
        for stage, run in made.items()
    ]
    assert runs.train_several(2, commands, cache) == [None] * 4
    return made


@pytest.fixture(scope="module")
def expected(averaged: dict[int, Path], cache: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The average and the weights after the last step, by PyTorch and NumPy alone."""
    config = options.load(averaged[0] / "config.yaml")
    config.data.cache_dir, config.train.micro_batch_size = str(cache), config.train.batch_size
    inputs = Inputs(config.data, config.model, World(), config.seed)
    stream = inputs.train_stream(ds_config.settle_batching(config, 1, on_gpu=False))
    model = inputs.build_model()
    optimizer = torch.optim.AdamW(engine.parameter_groups(model, config.train))
    average = {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    for step, (batch,) in enumerate(stream.epoch(0)):
        batch = inputs.on_device(batch, step)
        model.objective(model(batch), model.counts(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        rates = engine.learning_rates(step, STEPS, config.train)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach().numpy()
    assert step + 1 == STEPS
    return average, {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("stage", range(4))
def test_the_weights_that_are_kept_are_the_average(averaged, expected, stage):
    average, last = expected
    saved = weights.load(averaged[stage], "last").state
    assert saved.keys() == average.keys()
    for name, value in average.items():
        np.testing.assert_allclose(saved[name].numpy(), value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.abs(saved["item"].numpy() - last["item"]).max() > 1e-3, "not the weights themselves"


def test_validation_is_of_the_average_and_training_goes_on_without(averaged, expected, two_ranks):
    """Computing with the average leaves the weights as they were: losses are those of a run without."""
    for stage, run in averaged.items():
        valid = [record["ndcg@10"] for record in runs.records(run) if record.get("split") == "valid"]
        assert runs.results(run)["valid"]["ndcg@10"] == pytest.approx(max(valid), abs=2e-3), stage
        np.testing.assert_allclose(runs.losses(run), runs.losses(averaged[0]), rtol=2e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_resume_takes_the_average_up(averaged, workplace, cache, stage):
    copy = workplace / f"averaged{stage}again"
    shutil.copytree(averaged[stage], copy)
    (copy / "results.json").unlink()
    for checkpoint in checkpoint_files.complete(copy / "checkpoints"):
        if int(checkpoint.name[5:]) > 3:
            shutil.rmtree(checkpoint)
    assert runs.train_several(2, [["--run", str(copy), "--resume"]], cache) == [None]
    before, after = (weights.load(run, "last").state for run in (averaged[stage], copy))
    assert all(torch.equal(before[name], after[name]) for name in before)
