"""What a killed process has started ends with it, as its guard sees to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

# Starts what Ray starts, as far as ending it is concerned: a process in a session of its own.
SWEEP = """
import subprocess, time
from tune.guard import Guard
guard = Guard()
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_killed_sweep():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    bystander = subprocess.Popen(["sleep", "60"])
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = psutil.Process(int(sweep.stdout.readline()))
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
