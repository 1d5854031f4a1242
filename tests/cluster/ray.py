"""A Ray cluster on the two hosts: its head, with the dashboard, on n1, a worker node on n2.

python -m tests.cluster.ray COMMAND ...     # runs COMMAND on n1 while Ray is up
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import NAMES, Hosts

PORT, DASHBOARD = 6379, 8265


class Ray:
    """The running cluster."""

    def __init__(self, both: Hosts) -> None:
        self.hosts, self.folder = both, both.folder / "ray"

    @property
    def address(self) -> str:
        """Of the dashboard, to which jobs are submitted."""
        return f"http://{hosts.address(NAMES[0])}:{DASHBOARD}"

    @property
    def environment(self) -> dict[str, str]:
        """For every program of Ray's: a token of its own, which all must have."""
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return {**hosts.environment(), **own, "RAY_USAGE_STATS_ENABLED": "0"}

    def up(self) -> None:
        """Start head and worker node."""
        self.folder.mkdir()
        (self.folder / "token").write_text(secrets.token_hex(32))
        for name in NAMES:  # a folder of its own for each host, under the name that Ray expects
            self.hosts.run(name, ["bash", "-c", "mkdir -p /tmp/ray && mount -t tmpfs ray /tmp/ray"])
        self.start_head()
        self.start_node()

    def start_head(self) -> None:
        self._ray(
            NAMES[0],
            f"start --head --port {PORT} --dashboard-host 0.0.0.0 --dashboard-port {DASHBOARD}"
            f" --node-ip-address {hosts.address(NAMES[0])}",
        )

    def start_node(self) -> None:
        own = f"--node-ip-address {hosts.address(NAMES[1])}"
        self._ray(NAMES[1], f"start --address {hosts.address(NAMES[0])}:{PORT} {own}")

    def stop(self) -> None:
        """Every process of it, jobs and workers too, as when the head node is gone."""
        for name in NAMES:
            self._ray(name, "stop --force")

    def call(self, arguments: str, timeout: float = 120) -> str:
        """`ray WORDS` on n1; what it prints."""
        return self._ray(NAMES[0], arguments, timeout)

    def status(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        reported = self.call(f"job status --address {self.address} {job}")
        return re.findall("PENDING|RUNNING|SUCCEEDED|FAILED|STOPPED", reported.upper())[-1]

    def wait_for_end(self, job: str, seconds: float) -> str:
        """The status in which a job ends."""
        deadline = time.monotonic() + seconds
        while (status := self.status(job)) in ("PENDING", "RUNNING"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job} runs for {seconds} s: {self.logs(job)}")
            time.sleep(1)
        return status

    def logs(self, job: str) -> str:
        return self.call(f"job logs --address {self.address} {job}")[-3000:]

    def _ray(self, name: str, arguments: str, timeout: float = 120) -> str:
        script = str(Path(sys.executable).with_name("ray"))
        # Cores as a host of its own would have.
        cores = " --num-cpus 1 --object-store-memory 200000000" if arguments.startswith("start") else ""
        command = ["bash", "-c", f"exec {script} {arguments}{cores}"]
        done = self.hosts.run(name, command, timeout, env=self.environment)
        if done.returncode:
            raise RuntimeError(f"ray {arguments}: {done.stdout[-3000:]}")
        return done.stdout


@contextlib.contextmanager
def ray(both: Hosts) -> Iterator[Ray]:
    """Ray, for as long as the block runs."""
    cluster = Ray(both)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    reason = hosts.missing()
    if reason:
        sys.exit(f"error: {reason} (on {socket.gethostname()})")
    with hosts.hosts() as both_hosts, ray(both_hosts) as up:
        sys.exit(both_hosts.start(NAMES[0], sys.argv[1:], env=up.environment).wait())
