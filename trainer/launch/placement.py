"""Where the ranks of a run are: at its start as asked, after a loss on what is left."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from trainer import ds_config
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.launch import machine
from trainer.prepare import settle_paths

HOSTS = "hosts"  # in the run directory: the host file of a restart


@dataclass(frozen=True)
class Placement:
    """Where the ranks will be.

    Attributes:
        hostfile: of several hosts; None on this machine.
        port: rank 0's, on the hosts of a host file.
    """

    world_size: int
    on_gpu: bool
    hostfile: str | None = None
    port: int = 0


def place(config: RunConfig) -> Placement:
    """Place the ranks as asked.

    Raises:
        UserError: this machine, or a host of the host file, cannot take its ranks.
    """
    if config.hostfile is None:
        gpus = machine.gpus()
        return Placement(machine.ranks(config.num_gpus, len(gpus)), bool(gpus))
    from trainer.launch.hosts import check, hostfile

    hosts = hostfile.read(config.hostfile)
    common = check.check_hosts(hosts, settle_paths(config))
    return Placement(sum(host.slots for host in hosts), common.on_gpu, config.hostfile, common.port)


def place_again(config: RunConfig, before: Placement, run_dir: Path, *, rank_lost: bool) -> Placement:
    """Place the ranks on what is left of `before`: hosts that answer, GPUs that are there.

    CPU ranks have nothing that could be seen to be lost. Where one is lost again and again (`rank_lost`), as
    with too little memory, one rank fewer is started.

    Raises:
        UserError: nothing is left.
    """
    if before.hostfile is not None:
        return _place_on_hosts(config, before, run_dir)
    most = _gpus() if before.on_gpu else before.world_size - rank_lost
    if not most:
        raise UserError(f"no {'GPU' if before.on_gpu else 'rank'} is left to continue on")
    return replace(before, world_size=fitting(config, min(before.world_size, most), before.on_gpu))


def fitting(config: RunConfig, most: int, on_gpu: bool) -> int:
    """Return the largest number of ranks, up to `most`, among which the global batch can be divided.

    Raises:
        UserError: not even one.
    """
    for ranks in range(most, 0, -1):
        try:
            ds_config.settle_batching(config, ranks, on_gpu=on_gpu)
        except UserError:
            continue
        return ranks
    raise UserError(f"no batch of {config.train.batch_size} can be divided among up to {most} ranks")


def _place_on_hosts(config: RunConfig, before: Placement, run_dir: Path) -> Placement:
    from trainer.launch.hosts import check, hostfile

    hosts = hostfile.read(str(before.hostfile))
    reports, faults = check.compare(hosts, config.data.path)
    left = {
        host: min(host.slots, report.gpus) if before.on_gpu else host.slots
        for host, report in reports.items()
    }
    if not sum(left.values()):
        raise UserError("--hostfile: no host is left: " + "; ".join(faults))
    spare = sum(left.values()) - fitting(config, sum(left.values()), before.on_gpu)
    for host in reversed(left):
        taken = min(spare, left[host])
        left[host], spare = left[host] - taken, spare - taken
    used = {host: slots for host, slots in left.items() if slots}
    hostfile.write(run_dir / HOSTS, [replace(host, slots=slots) for host, slots in used.items()])
    first = next(iter(used))
    return Placement(sum(used.values()), before.on_gpu, str(run_dir / HOSTS), reports[first].port)


def _gpus() -> int:
    """How many GPUs this machine has now: a driver that is loaded already does not see that one is gone."""
    command = [sys.executable, "-m", "trainer.launch.hosts.probe"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["gpus"])
