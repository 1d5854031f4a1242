"""Slurm on the two hosts: its controller on n1, a node daemon on each. Needs Debian's slurm-wlm and munge.

python -m tests.cluster.slurm COMMAND ...     # runs COMMAND on n1 while Slurm is up
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.cluster import hosts
from tests.cluster.hosts import NAMES, Hosts

NEEDED = {**hosts.NEEDED, "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge"}

_CONF = """
ClusterName=test
SlurmctldHost=n1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdTimeout=30
KillWait=5
ReturnToService=2
NodeName=n[1-2] CPUs=2 RealMemory=4000
PartitionName=batch Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """The running daemons."""

    def __init__(self, both: Hosts) -> None:
        self.hosts, self.folder = both, both.folder / "slurm"
        self._processes: dict[str, subprocess.Popen] = {}

    @property
    def environment(self) -> dict[str, str]:
        """For every program of Slurm's."""
        return {**hosts.environment(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        for name in ("", "state", *(f"spool-{name}" for name in NAMES)):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder).lstrip())
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._start(
            "munged", NAMES[0], f"munged --foreground --force --key-file={key}"
            f" --socket={self.folder}/munge.socket --pid-file={self.folder}/munge.pid"
            f" --seed-file={self.folder}/munge.seed --log-file={self.folder}/munge.log",
        )  # fmt: skip
        while not (self.folder / "munge.socket").exists():
            time.sleep(0.05)
        self.start_controller()
        for name in NAMES:
            self._start(f"slurmd-{name}", name, f"slurmd -D -N {name}")
        self.wait_for("sinfo -h -o %t -N", lambda output: output.split() == ["idle"] * 4, 20)

    def start_controller(self) -> None:
        self._start("slurmctld", NAMES[0], "slurmctld -D")

    def kill_controller(self) -> None:
        """As a crash of the head node does."""
        for pid in self.hosts.processes(NAMES[0], "slurmctld -D"):
            self.hosts.run(NAMES[0], ["kill", "-9", str(pid)])
        self._processes.pop("slurmctld").wait(10)

    def down(self) -> None:
        """End all daemons; what jobs have left ends with its host."""
        for process in self._processes.values():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def call(self, command: str) -> str:
        """Run a program of Slurm's on n1; what it prints."""
        done = self.hosts.run(NAMES[0], ["bash", "-c", command], env=self.environment)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}")
        return done.stdout.strip()

    def wait_for(self, command: str, holds, seconds: float) -> str:  # noqa: ANN001 - a predicate
        """Ask again and again until the answer holds."""
        deadline, output = time.monotonic() + seconds, ""
        while True:
            try:
                output = self.call(command)
                if holds(output):
                    return output
            except RuntimeError as error:
                output = str(error)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command} after {seconds} s: {output}\n{self.logs()}")
            time.sleep(0.3)

    def logs(self) -> str:
        """The end of each daemon's log."""
        return "\n".join(
            f"{path.name}: {path.read_text()[-800:]}" for path in self.folder.glob("*.[lo][ou]*")
        )

    def _start(self, key: str, name: str, command: str) -> None:
        log = (self.folder / f"{key}.out").open("ab")
        self._processes[key] = self.hosts.start(
            name, ["bash", "-c", f"exec {command}"], stdout=log, stderr=log, env=self.environment
        )


@contextlib.contextmanager
def slurm(both: Hosts) -> Iterator[Slurm]:
    """Slurm, for as long as the block runs."""
    cluster = Slurm(both)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


if __name__ == "__main__":
    reason = hosts.missing(NEEDED)
    if reason:
        sys.exit(f"error: {reason} (on {socket.gethostname()})")
    with hosts.hosts() as both_hosts, slurm(both_hosts) as up:
        os.environ.update(up.environment)
        sys.exit(both_hosts.start(NAMES[0], sys.argv[1:], env=up.environment).wait())
