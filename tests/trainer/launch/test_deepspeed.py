"""launch.sh, the operator and DeepSpeed's launcher as real processes; ranks train nothing (`stand_in`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from trainer import run_directory
from trainer.launch import machine
from trainer.launch.stopped import Hung, StoppedWatch

HOSTILE = 'it\'s a "run"; touch owned & $HOME `date` $(id) \\n * -- ~ é'
Launch = Callable[..., subprocess.Popen]


def arguments(tmp_path: Path, data: Path) -> list[str]:
    return [
        "--data",
        str(data),
        "--run",
        str(tmp_path / HOSTILE),
        "--data.cache_dir",
        HOSTILE,
        "--train.lr=1e-3",
    ]


def reports(tmp_path: Path, ranks: int, seconds: float = 90) -> list[dict]:
    """What each rank has reported, once all have."""
    files = [tmp_path / "ranks" / f"rank-{rank}.json" for rank in range(ranks)]
    deadline = time.monotonic() + seconds
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, (tmp_path / "output").read_text()
        time.sleep(0.05)
    return [json.loads(file.read_text()) for file in files]


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all processes end within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        alive = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                alive += [pid] if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else []
        if not alive or time.monotonic() > deadline:
            return not alive
        time.sleep(0.05)


def family(process: subprocess.Popen) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def check_arguments(reported: list[dict], given: list[str]) -> None:
    for rank, one in enumerate(reported):
        assert one["arguments"] == given
        assert one["environment"]["RANK"] == str(rank)
        assert one["environment"]["WORLD_SIZE"] == str(len(reported))


def test_operator(stand_in: Path, tmp_path: Path, launch: Launch, make_data) -> None:
    """Arguments arrive unchanged, ranks get what they need, and a finished run stays a success."""
    script, run = str(stand_in / "launch.sh"), tmp_path / HOSTILE
    given = ["--num_gpus", "2", *arguments(tmp_path, make_data())]
    process = launch([script, *given], STAND_IN="finish")
    assert process.wait(120) == 0, (tmp_path / "output").read_text()
    reported = reports(tmp_path, 2, seconds=0)
    check_arguments(reported, given)
    assert not list(tmp_path.rglob("owned"))
    for environment in (one["environment"] for one in reported):
        assert environment[run_directory.RUN_VARIABLE] == str(run)
        assert environment["DS_ACCELERATOR"] == "cpu" and environment["TORCH_EXTENSIONS_DIR"]
        threads = str(max(1, machine.cores() // 2))
        assert environment["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", threads)
        assert int(environment["MASTER_PORT"]) in machine.PORTS
    again = launch([script, "--run", str(run), "--resume"])
    assert again.wait(60) == 0
    assert f"{run} is finished: its results are in" in (tmp_path / "output").read_text()


@pytest.mark.parametrize("way", ["deepspeed", "deepspeed --no_python"])
def test_arguments_arrive_unchanged(
    way: str, stand_in: Path, tmp_path: Path, launch: Launch, make_data
) -> None:
    given = arguments(tmp_path, make_data())
    port = ["--master_port", str(machine.free_port())]
    process = launch([*way.split(), *port, str(stand_in / "launch.sh"), *given], STAND_IN="leave")
    assert process.wait(120) == 0, (tmp_path / "output").read_text()
    check_arguments(reports(tmp_path, 1, seconds=0), given)
    assert not list(tmp_path.rglob("owned"))


def test_ranks_of_a_killed_deepspeed_end(stand_in: Path, tmp_path: Path, launch: Launch, make_data) -> None:
    """The runner of DeepSpeed dies by SIGTERM without a word: its ranks notice."""
    given = arguments(tmp_path, make_data())
    port = ["--master_port", str(machine.free_port())]
    command = ["deepspeed", "--num_gpus", "2", *port, str(stand_in / "launch.sh"), *given]
    process = launch(command, STAND_IN="stubborn")
    reported = reports(tmp_path, 2)
    check_arguments(reported, given)
    everyone = family(process)
    process.terminate()
    process.wait()
    assert gone([one["pid"] for one in reported], 2.5)
    assert gone(everyone, 5)
    assert "ends: its DeepSpeed runner" in (tmp_path / "output").read_text()


def test_host_file_that_deepspeed_would_overlook(root: Path, tmp_path: Path, launch: Launch) -> None:
    nowhere, port = str(tmp_path / "nowhere"), str(machine.free_port())
    process = launch(
        ["deepspeed", "--hostfile", nowhere, "--master_port", port, str(root / "launch.sh"), "--seed", "1"]
    )
    assert process.wait(timeout=60) == 2, (tmp_path / "output").read_text()
    assert f"error: --hostfile {nowhere}: no such file" in (tmp_path / "output").read_text()


@pytest.mark.parametrize("way", ["operator", "deepspeed --num_gpus 2"])
def test_help_is_printed_once(way: str, root: Path, tmp_path: Path, launch: Launch) -> None:
    port = ["--master_port", str(machine.free_port())]
    command = (
        [str(root / "launch.sh")] if way == "operator" else [*way.split(), *port, str(root / "launch.sh")]
    )
    process = launch([*command, "--help"])
    assert process.wait(120) == 0
    output = (tmp_path / "output").read_text()
    assert output.count("usage: ./launch.sh") == 1 and "--model.tcd.loss_weight" in output


def start(
    stand_in: Path, tmp_path: Path, launch: Launch, data: Path, task: str, *more: str
) -> subprocess.Popen:
    command = [str(stand_in / "launch.sh"), "--num_gpus", "2", "--data", str(data), "--run", "run", *more]
    return launch(command, STAND_IN=task)


@pytest.mark.parametrize(
    ("task", "code", "line"),
    [
        ("die", 1, "error: the ranks ended (exit code 247) before the run was finished"),
        ("leave", 1, "error: the ranks ended (exit code 0) before the run was finished"),
        ("mistake", 2, "error: sequences-000003.tar is truncated"),
    ],
)
def test_exit_codes(task: str, code: int, line: str, stand_in, tmp_path, launch: Launch, make_data) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), task)
    assert process.wait(120) == code
    output = (tmp_path / "output").read_text()
    assert output.count(line) == 1 and "Traceback" not in output
    assert gone([reported["pid"] for reported in reports(tmp_path, 2, seconds=0)], 0)


def test_nothing_outlives_an_operator_that_is_killed(stand_in, tmp_path, launch: Launch, make_data) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), "stubborn")
    ranks = [reported["pid"] for reported in reports(tmp_path, 2)]
    everyone = family(process)
    assert set(ranks) < set(everyone)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(ranks, 2.5)
    assert gone(everyone, 5)
    run_directory.claim(tmp_path / "run", resume=True).release()


def test_ctrl_c_ends_everything(stand_in: Path, tmp_path: Path, launch: Launch, make_data) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), "wait")
    reports(tmp_path, 2)
    everyone = family(process)
    os.killpg(process.pid, signal.SIGINT)
    check_stopped(process, everyone, tmp_path, "SIGINT")


def test_a_run_in_use_is_refused(stand_in: Path, tmp_path: Path, launch: Launch, make_data) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), "stubborn")
    reports(tmp_path, 2)
    everyone = family(process)
    command = [str(stand_in / "launch.sh"), "--run", "run", "--resume"]
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert f"/run is in use by process {process.pid} on" in second.stderr
    process.terminate()  # the ranks of this one do not listen to SIGTERM
    check_stopped(process, everyone, tmp_path, "SIGTERM")


@pytest.mark.parametrize("name", ["rank", "launcher"])
def test_a_stopped_process_is_noticed(name: str, stand_in, tmp_path, launch: Launch, make_data) -> None:
    """SIGSTOP on a rank, or on DeepSpeed's launcher: every rank shows where it was, and all of them end."""
    process = start(stand_in, tmp_path, launch, make_data(), "wait", "--run.host_timeout", "3")
    ranks = [reported["pid"] for reported in reports(tmp_path, 2)]
    everyone = family(process)
    stopped = ranks[1] if name == "rank" else psutil.Process(ranks[1]).ppid()
    os.kill(stopped, signal.SIGSTOP)
    assert process.wait(20) == 1
    assert gone(everyone, 0)
    output = (tmp_path / "output").read_text()
    folder = tmp_path / "run" / "stacks"
    line = f"error: processes of the run were stopped for 3 s: {stopped}; stacks of the ranks: {folder}"
    assert f"{line}; continue with ./launch.sh --run run --resume" in output and "Traceback" not in output
    for rank in range(2):
        assert "trainer/rank/main.py" in (folder / f"rank-{rank}.txt").read_text()


def test_a_process_that_is_stopped_for_a_moment_is_left_alone() -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    watch = StoppedWatch(process.pid, timeout=0.6)
    try:
        for signum in (signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP, signal.SIGCONT):
            process.send_signal(signum)
            for _ in range(4):
                time.sleep(0.1)
                watch.look()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(Hung, match=f"stopped for 0.6 s: {process.pid}"):
            for _ in range(20):
                time.sleep(0.1)
                watch.look()
    finally:
        process.kill()
        process.wait()


def test_a_lost_rank_is_started_again(stand_in, tmp_path, launch: Launch, make_data) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), "die, then finish", "--max-restarts", "1")
    assert process.wait(120) == 0
    output = (tmp_path / "output").read_text()
    assert "restart 1 of 1: continuing after step 0 on 2 ranks\n" in output
    resumed = ["--run", str(tmp_path / "run"), "--resume"]
    assert [reported["arguments"] for reported in reports(tmp_path, 2, seconds=0)] == [resumed] * 2


@pytest.mark.slow
def test_a_rank_that_is_lost_at_the_same_place_is_left_out(
    stand_in, tmp_path, launch: Launch, make_data
) -> None:
    process = start(stand_in, tmp_path, launch, make_data(), "die", "--max-restarts", "2")
    reports(tmp_path, 2)
    deadline = time.monotonic() + 120
    while "on 1 rank instead of 2" not in (tmp_path / "output").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (tmp_path / "ranks" / "rank-0.json").unlink()
    assert reports(tmp_path, 1)[0]["environment"]["WORLD_SIZE"] == "1"  # rank 0 alone does not die
    process.terminate()
    check_stopped(process, [], tmp_path, "SIGTERM")


@pytest.mark.parametrize("task", ["mistake", "save"])
def test_what_would_happen_again_is_not_started_again(
    task: str, stand_in, tmp_path, launch: Launch, make_data
) -> None:
    """A mistake stays one, and SIGUSR1 to the operator saves and ends the run."""
    process = start(stand_in, tmp_path, launch, make_data(), task, "--max-restarts", "3")
    if task == "save":
        reports(tmp_path, 2)
        process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == (1 if task == "save" else 2)
    output = (tmp_path / "output").read_text()
    assert "restart 1 of" not in output and "Traceback" not in output
    if task == "save":
        assert output.count("error: preempted: saved after step 3; continue with ./launch.sh") == 1


def check_stopped(process: subprocess.Popen, everyone: list[int], tmp_path: Path, by: str) -> None:
    assert process.wait(20) == 1
    assert gone(everyone, 0)
    output = (tmp_path / "output").read_text()
    assert f"stopped by {by}; continue with ./launch.sh --run run --resume" in output
    assert "Traceback" not in output
