"""A silent rank is lost, a living one is not; with a real store and real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as torch_dist

from trainer.rank.heartbeat import Heartbeat

HOSTS = ["a", "b"]
RANK = """
import sys, time
import torch.distributed as torch_dist
from trainer.rank.heartbeat import Heartbeat
store = torch_dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False)
Heartbeat(store, ["a", "b"], 1, float(sys.argv[2])).start()
print("beating", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other():  # noqa: ANN201 - a generator of a pair
    """A store, and rank 1 in a process of its own."""
    store = torch_dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, str(store.port), "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "beating\n"
    yield store, process
    process.kill()
    process.communicate()


def beat(heartbeat: Heartbeat, seconds: float) -> str:
    """Without the thread that would end this process: what is lost within that time."""
    import threading

    threading.Thread(target=heartbeat._beat, daemon=True).start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not heartbeat.lost():
        time.sleep(0.05)
    heartbeat.stop()
    return heartbeat.lost()


def test_living_rank_is_not_lost(other) -> None:  # noqa: ANN001
    store, _ = other
    assert beat(Heartbeat(store, HOSTS, 0, 2.0), 4.0) == ""


def test_silent_rank_is_lost(other) -> None:  # noqa: ANN001
    store, process = other
    heartbeat = Heartbeat(store, HOSTS, 0, 2.0)
    process.send_signal(signal.SIGSTOP)  # as a host that has lost its link
    assert beat(heartbeat, 10.0) == "no sign of life of b (rank 1) for 2 s"


def test_rank_ends_when_rank_0_is_silent(other) -> None:  # noqa: ANN001
    _, process = other  # rank 0 never beats
    assert process.wait(10) == 1
    assert "rank ? ends: no sign of life of a (rank 0) for 2 s" in process.stderr.read()
