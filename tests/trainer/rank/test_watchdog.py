"""A rank that hangs shows where, and ends; one that is only slow does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# TIMEOUT is 0.5 s. The names of the functions are looked for in the stacks.
RANK = """
import ctypes, sys, time
from pathlib import Path
from trainer import activity
from trainer.rank.watchdog import watching

def first_step():
    time.sleep(1)

def many_short_batches():
    for batch in range(20):
        time.sleep(0.1)
        activity.note()

def save():
    activity.expect_slow_work()
    time.sleep(1.5)
    activity.note()

def waits_for_another_rank():
    time.sleep(60)

def holds_the_interpreter():
    ctypes.PyDLL(None).sleep(60)

with watching(Path(sys.argv[1]), 3, 0.5):
    for work in sys.argv[2:]:
        globals()[work]()
        activity.note()
"""


def run(folder: Path, *work: str) -> subprocess.CompletedProcess:
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", RANK, str(folder), *work]
    environment = {**os.environ, "PYTHONPATH": root, "RANK": "3"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)


def test_slow_work_is_no_hang(tmp_path: Path) -> None:
    done = run(tmp_path, "first_step", "many_short_batches", "save")
    assert done.returncode == 0 and done.stderr == ""
    assert not (tmp_path / "stacks").exists()


@pytest.mark.parametrize("where", ["waits_for_another_rank", "holds_the_interpreter"])
def test_a_hang_is_ended_with_its_stacks(where: str, tmp_path: Path) -> None:
    done = run(tmp_path, "many_short_batches", where)
    assert done.returncode == 1
    assert where in (tmp_path / "stacks" / "rank-3.txt").read_text()
    if where == "waits_for_another_rank":
        line = "rank 3 ends: nothing got on for 0.5 s; stacks are in stacks/ of the run directory\n"
        assert done.stderr == line
