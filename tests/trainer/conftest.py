"""The data set and the runs that several tests of this folder look at, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards import synthesise
from tests.trainer import runs


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the session."""
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="session")
def cache(workplace: Path) -> Path:
    """Where the feature table lies."""
    return workplace / "cache"


@pytest.fixture(scope="session")
def data(workplace: Path) -> Path:
    """A world of 400 users and 120 videos with features: 7 global batches of 64 an epoch."""
    synthesise(workplace / "data", users=400, videos=120, frames=3, width=8, seed=1)
    return workplace / "data"


@pytest.fixture(scope="session")
def one_rank(workplace: Path, data: Path, cache: Path) -> dict[str, Path]:
    """Runs of one rank, all in one process: plain, with accumulation, in bf16, with a user's own JSON ..."""
    own = workplace / "own.json"
    own.write_text(
        '{"train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 4, "gradient_clipping": 1.0,'
        ' "optimizer": {"type": "AdamW", "params": {"lr": 0.002}}, "zero_optimization": {"stage": 1},'
        f' "csv_monitor": {{"enabled": true, "output_path": "{workplace / "csv"}", "job_name": "own"}}}}'
    )
    made = {
        name: workplace / f"one-{name}"
        for name in ("whole", "accumulated", "zero3", "bf16", "own", "diverged")
    }
    commands = [
        runs.arguments(made["whole"], data),
        runs.arguments(made["accumulated"], data, train__micro_batch_size=16),
        runs.arguments(made["zero3"], data, train__zero_stage=3, train__micro_batch_size=32),
        runs.arguments(made["bf16"], data, train__precision="bf16", train__zero_stage=1, train__max_epochs=1),
        [
            "--run",
            str(made["own"]),
            "--data",
            str(data),
            "--deepspeed_config",
            str(own),
            "--train.max_epochs",
            "1",
        ]
        + ["--train.log_every", "1", "--train.tensorboard", "false"],
        runs.arguments(made["diverged"], data, train__lr=1e18, train__warmup_steps=0),
    ]
    failures = runs.train_several(1, commands, cache)
    assert failures[:-1] == [None] * 5
    (made["diverged"] / "failure").write_text(failures[-1] or "")
    return made


@pytest.fixture(scope="session")
def two_ranks(workplace: Path, data: Path, cache: Path) -> dict[int, Path]:
    """The same run by two ranks with accumulation, for each ZeRO stage."""
    made = {stage: workplace / f"two-zero{stage}" for stage in range(4)}
    commands = [
        runs.arguments(run, data, train__zero_stage=stage, train__micro_batch_size=16, num_gpus=2)
        for stage, run in made.items()
    ]
    assert runs.train_several(2, commands, cache) == [None] * 4
    return made
