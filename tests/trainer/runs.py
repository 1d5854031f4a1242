"""How the tests of this folder start ranks and read what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mealrec import MealRec, MealRecConfig
from trainer.launch import machine
from trainer.source import ROOT

# Small, with all on that could depend on ranks: dropout of every kind, sampled negatives, both modules.
SMALL = {
    "train.batch_size": 64,
    "train.max_epochs": 3,
    "train.log_every": 1,
    "train.log_samples": "true",
    "train.save_every_steps": 3,
    "train.keep_checkpoints": 20,
    "train.patience": 0,
    "train.tensorboard": "false",
    "train.warmup_steps": 4,
    "train.decay": "cosine",
    "train.ema": 0,
    "train.weight_decay": 0.01,
    "train.lr": 0.002,
    "train.clip_norm": 0.6,
    "data.max_length": 20,
    "model.dim": 16,
    "model.item_bias": "true",
    "model.content_half": 4,
    "model.objective.softmax": "sampled",
    "model.objective.negatives": 32,
}
STEPS = 21  # of such a run on the data set of the fixture


def plain_model(config: MealRecConfig, **options: Any) -> MealRec:
    """A model of such a configuration outside of a run, where videos have no content."""
    content = torch.zeros(config.videos + 1, config.width) if config.has_content else None
    return MealRec(config, content=content, **options)


def arguments(run: Path, data: Path | None, **changes: Any) -> list[str]:
    """The command line of a small run; `changes` with `__` for the dots."""
    values = {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}
    options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["--run", str(run), *(["--data", str(data)] if data else []), *options]


def start(world_size: int, command: list[str], cache: Path) -> list[subprocess.Popen]:
    """Start `world_size` ranks of `python COMMAND` on a free port, one thread each."""
    common = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MEALREC")},
        "MEALREC_CACHE": str(cache),
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(machine.free_port()),
        "WORLD_SIZE": str(world_size),
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]


def train_several(world_size: int, runs: list[list[str]], cache: Path) -> list[str | None]:
    """Train the runs one after the other in the same ranks; for each None, or the error that ended it."""
    script = str(Path(__file__).with_name("several.py"))
    ranks = start(world_size, [script, json.dumps(runs)], cache)
    ended = [rank.communicate(timeout=300) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(err[-3000:] for _, err in ended)
    return [json.loads(line) for line in ended[0][0].splitlines() if line.startswith(('"', "null"))]


def records(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run: Path) -> list[tuple[float, ...]]:
    """(step, loss, rec, tcd, npd, gradient norm) of every step that was logged."""
    names = ("step", "loss", "loss_rec", "loss_tcd", "loss_npd", "grad_norm")
    return [tuple(record[name] for name in names) for record in records(run) if "loss" in record]


def samples(run: Path) -> list[tuple[int, list[int]]]:
    """Epoch and sample ids of every step, from samples.jsonl; every epoch must have the same ones."""
    records = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    epochs: dict[int, list[int]] = {}
    for record in records:
        epochs.setdefault(record["epoch"], []).extend(record["samples"])
    for used in epochs.values():
        assert sorted(used) == sorted(epochs[1])
    return [(record["epoch"], sorted(record["samples"])) for record in records]


def results(run: Path) -> dict[str, Any]:
    """results.json."""
    return json.loads((run / "results.json").read_text())


def environment(run: Path) -> dict[str, Any]:
    """environment.json."""
    return json.loads((run / "environment.json").read_text())
