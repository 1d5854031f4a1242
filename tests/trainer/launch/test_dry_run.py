"""What `--dry_run` prints: everything, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from mealrec import MealRec
from shards import Index
from trainer.__main__ import run
from trainer.batching import resolve
from trainer.config import RunConfig
from trainer.launch import dry_run

MakeData = Callable[..., Path]


def test_dry_run_says_everything_and_leaves_nothing(
    tmp_path: Path, make_data: MakeData, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--dry_run",
        "--num_gpus",
        "2",
        "--train.zero_stage",
        "2",
        "--train.batch_size",
        "64",
        "--train.micro_batch_size",
        "8",
    ]
    assert run([*arguments, "--data", str(make_data())]) == 0
    printed = capsys.readouterr().out
    assert "batch 64 = micro-batch 8 x accumulation 4 x ranks 2" in printed
    assert "micro_batch_size: 8" in printed and "an epoch" in printed
    for part in ("parameters", "gradients", "optimiser", "activations", "content", "feature table"):
        assert part in printed
    assert os.listdir(tmp_path) == []


def test_parameters_are_counted_exactly() -> None:
    config = RunConfig().model
    config.videos, config.frames, config.width = 777, 3, 5
    assert dry_run.parameters(config) == sum(p.numel() for p in MealRec(config).parameters())
    config.content_half, config.item_bias, content = 4.0, True, torch.zeros(778, 5)
    model = MealRec(config, content=content)
    assert dry_run.parameters(config) == sum(p.numel() for p in model.parameters())


def test_memory_is_divided_by_the_stage(make_data: MakeData) -> None:
    config = RunConfig()
    index, batching = Index.load(make_data()), resolve(512, 0, 4)
    by_stage = [
        dry_run.memory(config, {"zero_optimization": {"stage": stage}}, batching, index, 1000)
        for stage in range(4)
    ]
    assert [m.optimizer for m in by_stage] == [8000, 3000, 3000, 3000]
    assert [m.gradients for m in by_stage] == [4000, 4000, 1000, 1000]
    assert [m.parameters for m in by_stage] == [4000, 4000, 4000, 1000]
    table = 25 * config.model.dim
    assert [m.transient for m in by_stage] == [table * each for each in (4, 4, 7, 16)]
    assert by_stage[0].features == 25 * 2 * 4 * 2
