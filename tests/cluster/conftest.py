"""The hosts, a data set and the losses of one host with two ranks, made once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import synthesise
from tests.cluster import hosts
from tests.trainer import runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def both(shared: Path) -> Iterator[hosts.Hosts]:
    """Two hosts that are up, fresh for each file."""
    reason = hosts.missing()
    if reason:
        pytest.skip(reason)
    with hosts.hosts() as up:
        yield up


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all hosts see, and what their programs need of the environment."""
    folder = tmp_path_factory.mktemp("shared")
    os.environ |= {
        "MEALREC_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    return folder


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """The default data set."""
    synthesise(shared / "world")
    return shared / "world"


@pytest.fixture(scope="session")
def arguments(data: Path) -> list[str]:
    """Of a run of some seconds."""
    return ["--preset", "study", "--data", str(data), "--train.max_epochs", "1", "--train.log_every", "1"]


@pytest.fixture(scope="session")
def expected(shared: Path, arguments: list[str]) -> list[tuple[float, ...]]:
    """The losses of one host with two ranks."""
    run = shared / "one-host"
    command = [str(ROOT / "launch.sh"), "--run", str(run), "--num_gpus", "2", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return runs.losses(run)


def await_steps(run: Path, steps: int, seconds: float = 120) -> None:
    """Until a run has logged so many steps."""
    deadline = time.monotonic() + seconds
    while len(runs.losses(run)) < steps:
        assert time.monotonic() < deadline, f"{run} has not come to step {steps} within {seconds} s"
        time.sleep(0.1)
