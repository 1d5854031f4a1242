"""A Ray cluster of two hosts: a submitted job trains to the same losses; after the head is gone, a new job
continues the run.
"""

from __future__ import annotations

import csv
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import await_steps
from tests.cluster.hosts import NAMES, Hosts
from tests.cluster.ray import Ray, ray
from tests.trainer import runs

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(both: Hosts) -> Iterator[Ray]:
    with ray(both) as up:
        yield up


def submit(cluster: Ray, run: Path, arguments: list[str]) -> str:
    """The job's number."""
    command = [sys.executable, "-m", "trainer", "submit", "ray", "--address", cluster.address, "--nodes", "2"]
    whole = shlex.join([*command, "--", "--run", str(run), *arguments])
    done = cluster.hosts.run("n1", ["bash", "-c", whole], 120, env=cluster.environment)
    assert done.returncode == 0, done.stdout[-3000:]
    return re.search(r"submitted as (\w+)", done.stdout)[1]


def test_trains_to_the_losses_of_one_host(cluster: Ray, shared: Path, arguments: list[str], expected) -> None:  # noqa: ANN001
    run = shared / "ray"
    job = submit(cluster, run, arguments)
    assert cluster.wait_for_end(job, 300) == "SUCCEEDED", cluster.logs(job)
    assert runs.losses(run) == expected
    assert {device["host"] for device in runs.environment(run)["devices"]} == set(NAMES)


def test_head_node_restarts(cluster: Ray, shared: Path, arguments: list[str], expected) -> None:  # noqa: ANN001
    run = shared / "ray-head"
    submit(cluster, run, [*arguments, "--train.save_every_steps", "2"])
    await_steps(run, 5)
    cluster.stop()
    assert not (run / "results.json").exists()
    cluster.start_head()
    cluster.start_node()
    job = submit(cluster, run, ["--resume"])
    assert cluster.wait_for_end(job, 300) == "SUCCEEDED", cluster.logs(job)
    assert runs.losses(run) == expected


def test_sweep_as_a_submitted_job(cluster: Ray, shared: Path, data: Path) -> None:
    space, out = shared / "space.yaml", shared / "sweep"
    fixed = {"preset": "study", "model.dim": 16, "train.max_epochs": 1, "model.tcd.enabled": False}
    space.write_text(yaml.safe_dump({"search": "grid", "space": {"model.npd.steps": [2, 5]}, "fixed": fixed}))
    sweep = [sys.executable, "-m", "tune", "sweep", str(space), "--data", str(data), "--out", str(out)]
    cluster.call(f"job submit --address {cluster.address} -- {shlex.join(sweep)}", 300)
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.npd.steps"], row["status"]) for row in rows] == [("2", "finished"), ("5", "finished")]
    ran_on = {runs.environment(run)["devices"][0]["host"] for run in (out / "runs").iterdir()}
    assert ran_on == set(NAMES)  # a core each: two trials at once take both
