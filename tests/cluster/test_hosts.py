"""Two hosts by ssh: the same losses as on one, and a clear end of every rank whatever breaks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, await_steps
from tests.cluster.hosts import NAMES, Hosts
from tests.trainer import runs

pytestmark = pytest.mark.cluster

TIMEOUT = 8  # seconds without a sign of life; the default is 60
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@pytest.fixture
def hostfile(shared: Path) -> str:
    file = shared / "hosts"
    file.write_text("".join(f"{name} slots=1\n" for name in NAMES))
    return str(file)


@pytest.fixture
def start(both: Hosts, hostfile: str, arguments: list[str]):  # noqa: ANN201 - a function
    """Starts a run over both hosts from n1."""

    def start(run: Path, *more: str) -> subprocess.Popen:
        command = [str(ROOT / "launch.sh"), "--hostfile", hostfile, "--run", str(run), *arguments]
        return both.start("n1", [*command, "--run.host_timeout", str(TIMEOUT), *more], **PIPES)

    return start


def output_of(process: subprocess.Popen, within: float) -> str:
    """What a process says to its end, which must come in time."""
    output, _ = process.communicate(timeout=within)
    return output


def assert_nothing_left(both: Hosts, names: tuple[str, ...] = NAMES, within: float = 10) -> None:
    """No rank lives on."""
    deadline = time.monotonic() + within
    while left := {name: both.processes(name, "launch.sh --local_rank") for name in names}:
        if not any(left.values()):
            return
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.2)


def test_trains_to_the_losses_of_one_host(start, shared: Path, expected: list[tuple[float, ...]]) -> None:
    run = shared / "a b$c;d"
    process = start(run)
    output = output_of(process, 300)
    assert process.returncode == 0, output[-3000:]
    assert runs.losses(run) == expected
    assert {device["host"] for device in runs.environment(run)["devices"]} == set(NAMES)


def test_deepspeeds_own_launcher(
    both: Hosts, hostfile: str, shared: Path, arguments: list[str], expected
) -> None:  # noqa: ANN001
    run = shared / "deepspeed"
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    process = both.start(
        "n1",
        [deepspeed, "--hostfile", hostfile, str(ROOT / "launch.sh"), "--run", str(run), *arguments],
        **PIPES,
    )
    output = output_of(process, 300)
    assert process.returncode == 0, output[-3000:]
    actual = runs.losses(run)  # DeepSpeed forwards no OMP_NUM_THREADS: sums are taken in another order
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_host_that_cannot_be_reached(both: Hosts, shared: Path, arguments: list[str]) -> None:
    file = shared / "wrong-hosts"
    file.write_text("n1 slots=1\nn9 slots=1\n")
    done = both.run("n1", [str(ROOT / "launch.sh"), "--hostfile", str(file), *arguments])
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("error: --hostfile: n9: not reachable by ssh")


def test_killed_rank(start, both: Hosts, shared: Path) -> None:
    run = shared / "killed"
    process = start(run, "--train.max_epochs", "20")
    await_steps(run, 3)
    both.run("n2", ["kill", "-9", *map(str, both.processes("n2", "launch.sh --local_rank")[-1:])])
    output = output_of(process, 3 * TIMEOUT + 20)
    assert process.returncode == 1 and "continue with" in output.splitlines()[-1], output[-3000:]
    assert_nothing_left(both)


@pytest.mark.parametrize("signal", ["INT", "KILL"])
def test_operator_ends(start, both: Hosts, shared: Path, signal: str) -> None:
    run = shared / f"operator-{signal}"
    process = start(run, "--train.max_epochs", "20")
    await_steps(run, 3)
    operator = both.processes("n1", "launch.sh --hostfile")[0]
    both.run("n1", ["kill", f"-{signal}", str(operator)])
    output_of(process, 20)
    assert process.returncode != 0
    assert_nothing_left(both)


def test_link_cut_in_mid_step(start, both: Hosts, shared: Path) -> None:
    run = shared / "cut"
    process = start(run, "--train.max_epochs", "20", "--train.save_every_steps", "2")
    await_steps(run, 5)
    both.cut("n2")
    try:
        output = output_of(process, TIMEOUT + 30)
        assert process.returncode == 1 and "continue with" in output.splitlines()[-1], output[-3000:]
        assert_nothing_left(both, within=TIMEOUT + 20)
    finally:
        both.mend("n2")


def test_host_gone_for_good(start, both: Hosts, shared: Path, arguments: list[str]) -> None:
    run = shared / "gone"
    process = start(run, "--train.save_every_steps", "2")
    await_steps(run, 5)
    both.shut_down("n2")
    try:
        output = output_of(process, TIMEOUT + 30)
        assert process.returncode == 1 and "continue with" in output.splitlines()[-1], output[-3000:]
        assert_nothing_left(both, ("n1",))
        done = both.run(
            "n1", [str(ROOT / "launch.sh"), "--run", str(run), "--resume", "--num_gpus", "1"], 300
        )
        assert done.returncode == 0, done.stdout[-3000:]
        assert runs.results(run)["world_size"] == 1
    finally:
        both.boot("n2")
        both.mend("n2")


def test_lost_host_is_left_out_by_a_restart(start, both: Hosts, shared: Path, expected) -> None:  # noqa: ANN001
    """The operator goes on alone, on the host that is left, to the losses of both."""
    run = shared / "restarted"
    process = start(run, "--train.save_every_steps", "2", "--max-restarts", "1")
    await_steps(run, 5)
    both.shut_down("n2")
    try:
        output = output_of(process, 300)
        assert process.returncode == 0, output[-3000:]
        assert "restart 1 of 1: continuing after step" in output and "on 1 rank instead of 2" in output, (
            output
        )
        assert runs.results(run)["world_size"] == 1
        actual = runs.losses(run)
        assert [loss[0] for loss in actual] == [loss[0] for loss in expected], "every step, once"
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    finally:
        both.boot("n2")
        both.mend("n2")
