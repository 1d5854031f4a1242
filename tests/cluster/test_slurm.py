"""Slurm on two hosts: the same losses, a preemption that loses nothing, a controller that dies."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import hosts
from tests.cluster.conftest import await_steps
from tests.cluster.hosts import NAMES, Hosts
from tests.cluster.slurm import NEEDED, Slurm, slurm
from tests.trainer import runs

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(both: Hosts) -> Iterator[Slurm]:
    reason = hosts.missing(NEEDED)
    if reason:
        pytest.skip(reason)
    with slurm(both) as up:
        yield up


def submit(cluster: Slurm, shared: Path, run: Path, arguments: list[str]) -> str:
    """The job's number."""
    command = [sys.executable, "-m", "trainer", "submit", "slurm", "--nodes", "2", "--time", "20", "--"]
    reported = cluster.call(f"cd {shared} && {shlex.join([*command, '--run', str(run), *arguments])}")
    return re.search(r"submitted as job (\d+)", reported)[1]


def ended(cluster: Slurm, shared: Path, job: str) -> str:
    """The job's log, when it has left the queue."""
    cluster.wait_for(f"squeue -h -j {job} || true", lambda queue: job not in queue.split(), 240)
    return (shared / f"mealrec-{job}.log").read_text()


def test_trains_to_the_losses_of_one_host(
    cluster: Slurm, shared: Path, arguments: list[str], expected
) -> None:  # noqa: ANN001
    run = shared / "slurm's run"
    log = ended(cluster, shared, submit(cluster, shared, run, arguments))
    assert (run / "results.json").exists(), log[-3000:]
    assert runs.losses(run) == expected
    assert {device["host"] for device in runs.environment(run)["devices"]} == set(NAMES)


def test_preempted_job_queues_again_and_continues(
    cluster: Slurm, shared: Path, arguments: list[str], expected  # noqa: ANN001
) -> None:  # fmt: skip
    run = shared / "slurm-preempted"
    job = submit(cluster, shared, run, arguments)
    await_steps(run, 3)
    urgent = cluster.call("sbatch --parsable -p urgent -N2 --exclusive -o /dev/null --wrap 'sleep 1'")
    cluster.wait_for(f"squeue -h -j {job} -o %T", lambda state: state == "PENDING", 90)
    steps = len(runs.losses(run))
    assert "preempted: saved after step" in (shared / f"mealrec-{job}.log").read_text()
    assert 3 <= steps < len(expected) and not (run / "results.json").exists()
    cluster.wait_for(f"squeue -h -j {urgent} || true", lambda queue: urgent not in queue.split(), 60)
    # Slurm lets a job that queues again wait for two minutes.
    cluster.wait_for(
        f"scontrol update JobId={job} StartTime=now && echo yes", lambda reported: reported == "yes", 60
    )
    log = ended(cluster, shared, job)
    assert (run / "results.json").exists(), log[-3000:]
    assert f"after step {steps}" in log.split("continuing")[1]
    assert runs.losses(run) == expected


def test_head_node_restarts(cluster: Slurm, shared: Path, arguments: list[str], expected) -> None:  # noqa: ANN001
    run = shared / "slurm-head"
    job = submit(cluster, shared, run, arguments)
    await_steps(run, 3)
    cluster.kill_controller()
    cluster.start_controller()
    log = ended(cluster, shared, job)
    assert (run / "results.json").exists(), log[-3000:]
    assert runs.losses(run) == expected
