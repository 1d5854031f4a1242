"""Faults in a run over two hosts, for `bench.faults`: what happens, and how long until every rank has ended.

The hosts are network namespaces of this machine, as in the tests (root, and Debian's iproute2, openssh-server
and pdsh). Each fault comes in mid-training.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.fault_session import saved
from bench.report import Report
from shards import synthesise
from tests.cluster import hosts
from tests.cluster.hosts import NAMES, Hosts
from tests.trainer import runs

ROOT = Path(__file__).resolve().parents[1]
RANK, OPERATOR = "launch.sh --local_rank", "launch.sh --hostfile"


def kill(both: Hosts, name: str, text: str, signal: str, which: int) -> None:
    """Send a signal to one of the processes of a host whose command line has `text`."""
    both.run(name, ["kill", f"-{signal}", str(both.processes(name, text)[which])])


FAULTS: dict[str, Callable[[Hosts], None]] = {
    "rank killed": lambda both: kill(both, "n2", RANK, "KILL", -1),
    "link cut": lambda both: both.cut("n2"),
    "host lost": lambda both: both.shut_down("n2"),
    "operator interrupted": lambda both: kill(both, "n1", OPERATOR, "INT", 0),
    "operator killed": lambda both: kill(both, "n1", OPERATOR, "KILL", 0),
}


TIMEOUT = 8.0  # seconds without a sign of life; the default is 60


def add_rows(report: Report, folder: Path) -> str:
    """Bring each fault once, and add its row. Returns why that cannot be done here; empty if it was."""
    reason = hosts.missing()
    if not reason:
        synthesise(folder / "world")
        for fault in FAULTS:
            report.add(fault=f"two hosts: {fault}", **measure(fault, folder))
    return reason


def measure(fault: str, folder: Path) -> dict[str, object]:
    """Start a run, break it in the middle, and wait until it has ended. Returns cells of the table."""
    run, hostfile = folder / fault.replace(" ", "-"), folder / "hosts"
    hostfile.write_text("".join(f"{name} slots=1\n" for name in NAMES))
    arguments = ["--preset", "study", "--data", str(folder / "world"), "--train.max_epochs", "99"]
    arguments += [
        "--train.log_every",
        "1",
        "--train.save_every_steps",
        "5",
        "--run.host_timeout",
        str(TIMEOUT),
    ]
    with hosts.hosts() as both:
        operator = both.start(
            "n1",
            [str(ROOT / "launch.sh"), "--hostfile", str(hostfile), "--run", str(run), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(runs.losses(run)) < 7:
            assert operator.poll() is None, f"the run ended before the fault: exit code {operator.returncode}"
            time.sleep(0.1)
        started = time.monotonic()
        FAULTS[fault](both)
        code = operator.wait(TIMEOUT + 120)
        living = [name for name in NAMES if not (fault == "host lost" and name == "n2")]
        while any(both.processes(name, RANK) for name in living):
            assert time.monotonic() < started + 180, "ranks are left"
            time.sleep(0.1)
        ended = time.monotonic() - started
        lost = len(runs.losses(run)) - saved(run)
        seconds = {"seconds": ended, "at most": ended}
        return {"events": 1, "exit codes": str(code), **seconds, "steps lost": lost, "orphans": 0}
