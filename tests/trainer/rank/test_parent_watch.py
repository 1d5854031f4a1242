"""A process under watch ends when what it depends on is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer.rank import parent_watch

RANK = """
import time
from trainer.rank import parent_watch
parent_watch.start()
print("watching", flush=True)
time.sleep(60)
"""
# Starts a rank and sleeps, as a launcher does; its own child is said on its output.
LAUNCHER = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
rank.stdout.readline()
print(rank.pid, flush=True)
time.sleep(60)
"""


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_ends_with_its_operator() -> None:
    operator = sleeper()
    env = {**os.environ, parent_watch.OPERATOR: parent_watch.identity(operator.pid), "RANK": "3"}
    rank = subprocess.Popen([sys.executable, "-c", RANK], env=env, stdout=-1, stderr=-1, text=True)
    assert rank.stdout.readline() == "watching\n"
    time.sleep(2 * parent_watch.POLL_SECONDS)
    assert rank.poll() is None
    operator.send_signal(signal.SIGKILL)  # and nobody reaps it: a zombie is gone, too
    assert rank.wait(2) == 1
    assert f"rank 3 ends: its operator (process {operator.pid}) is gone" in rank.stderr.read()
    operator.wait()


def test_ends_with_its_launcher() -> None:
    env = {name: value for name, value in os.environ.items() if name != parent_watch.OPERATOR}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], env=env, stdout=-1, text=True)
    rank = psutil.Process(int(launcher.stdout.readline()))
    launcher.kill()
    launcher.wait()
    psutil.wait_procs([rank], timeout=2)
    assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE


def test_a_later_process_with_the_same_number_is_another() -> None:
    process = sleeper()
    try:
        pid, created = parent_watch.identity(process.pid).split(":")
        assert not parent_watch.Watched(int(pid), float(created)).is_gone()
        assert parent_watch.Watched(int(pid), float(created) - 5).is_gone()
    finally:
        process.kill()
        process.wait()
    assert parent_watch.Watched(process.pid).is_gone()


@pytest.mark.parametrize("missing", [False, True])
def test_only_our_own_shared_memory_is_removed(tmp_path: Path, missing: bool) -> None:
    ours, other = (
        "deepspeed_allreduce_buffer_0_127.0.0.1_25001_1",
        "deepspeed_allreduce_buffer_0_127.0.0.1_25002_1",
    )
    for name in (ours, other, "unrelated_25001_0"):
        (tmp_path / name).write_text("")
    if missing:
        (tmp_path / ours).unlink()
    parent_watch.remove_shared_memory(25001, str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [other, "unrelated_25001_0"]
