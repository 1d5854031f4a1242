"""Faults in a run over two hosts: what happens, and how long until every rank has ended.

    python -m bench.faults [--timeout 60] [FAULT ...]

The hosts are network namespaces of this machine, as in the tests (root, and Debian's iproute2, openssh-server
and pdsh). Each fault comes in mid-training. Writes bench/results/faults.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import RESULTS, Report
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


def measure(fault: str, folder: Path, timeout: float) -> tuple[int, float, float]:
    """Start a run, break it in the middle, and wait until it has ended.

    Returns:
        Exit code of the operator, seconds to its end, seconds until no rank is left on any living host.
    """
    run, hostfile = folder / fault.replace(" ", "-"), folder / "hosts"
    hostfile.write_text("".join(f"{name} slots=1\n" for name in NAMES))
    arguments = ["--preset", "study", "--data", str(folder / "world"), "--train.max_epochs", "99"]
    arguments += ["--train.log_every", "1", "--run.host_timeout", str(timeout)]
    with hosts.hosts() as both:
        operator = both.start(
            "n1",
            [str(ROOT / "launch.sh"), "--hostfile", str(hostfile), "--run", str(run), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(runs.losses(run)) < 5:
            if operator.poll() is not None:
                sys.exit(f"error: the run ended before the fault with exit code {operator.returncode}")
            time.sleep(0.1)
        started = time.monotonic()
        FAULTS[fault](both)
        code = operator.wait(timeout + 60)
        ended = time.monotonic() - started
        living = [name for name in NAMES if not (fault == "host lost" and name == "n2")]
        while any(both.processes(name, RANK) for name in living):
            time.sleep(0.1)
        return code, ended, time.monotonic() - started


def main() -> None:
    """Measure the faults, print them and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.split("\n")[0])
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], help="default: all")
    parser.add_argument("--timeout", type=float, default=60, help="of --run.host_timeout (default: 60)")
    settings = parser.parse_args()
    if reason := hosts.missing():
        sys.exit(f"error: {reason}")
    os.environ |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        synthesise(Path(folder) / "world")
        report = Report(RESULTS / "faults.csv", "network namespaces of one machine, wall seconds")
        for fault in settings.faults or FAULTS:
            code, ended, gone = measure(fault, Path(folder), settings.timeout)
            times = {"operator ended": ended, "no rank left": gone}
            report.add(fault=fault, **{"host timeout": settings.timeout, "exit code": code}, **times)
        report.close()


if __name__ == "__main__":
    main()
