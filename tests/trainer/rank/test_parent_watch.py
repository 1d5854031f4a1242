"""A rank ends when what it depends on is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from trainer import processes

RANK = """
import time
from trainer.rank import parent_watch
parent_watch.start()
print("watching", flush=True)
time.sleep(60)
"""
# Starts a rank and sleeps, as a launcher does; it prints the pid of its own child.
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
    env = {**os.environ, processes.OPERATOR_VARIABLE: processes.identity(operator.pid), "RANK": "3"}
    rank = subprocess.Popen([sys.executable, "-c", RANK], env=env, stdout=-1, stderr=-1, text=True)
    assert rank.stdout.readline() == "watching\n"
    time.sleep(2 * processes.POLL_SECONDS)
    assert rank.poll() is None
    operator.send_signal(signal.SIGKILL)  # not reaped yet: a zombie counts as gone
    assert rank.wait(2) == 1
    assert f"rank 3 ends: its operator (process {operator.pid}) is gone" in rank.stderr.read()
    operator.wait()


def test_ends_with_its_launcher() -> None:
    env = {name: value for name, value in os.environ.items() if name != processes.OPERATOR_VARIABLE}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], env=env, stdout=-1, text=True)
    rank = psutil.Process(int(launcher.stdout.readline()))
    launcher.kill()
    launcher.wait()
    psutil.wait_procs([rank], timeout=2)
    assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE
