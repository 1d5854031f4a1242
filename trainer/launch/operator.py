"""The operator: the process that checks everything, prepares the run, starts the ranks and sees them end."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import options, run_directory
from trainer.config import RunConfig
from trainer.errors import DONE, FAILED, MISTAKE, UserError, report
from trainer.launch import machine
from trainer.prepare import PreparedRun, prepare, settle_paths


@dataclass(frozen=True)
class Placement:
    """Where the ranks will be; `port` is rank 0's on the hosts of a host file, and None on this machine."""

    world_size: int
    on_gpu: bool
    port: int | None = None


def main(argv: Sequence[str]) -> int:
    """Run the operator. Returns the exit code."""
    config = options.parse(argv)
    placement = _place(config)
    if config.dry_run:
        from trainer.launch.dry_run import dry_run

        dry_run(config, world_size=placement.world_size, on_gpu=placement.on_gpu)
        return DONE
    prepared = prepare(config, world_size=placement.world_size, on_gpu=placement.on_gpu)
    run_dir = prepared.run_dir
    if prepared.finished:
        print(f"{run_dir} is finished: its results are in {run_dir / run_directory.RESULTS}")
        return DONE
    shown = os.path.relpath(run_dir) if run_dir.is_relative_to(Path.cwd()) else str(run_dir)
    print(f"run {shown}: {prepared.batching}", flush=True)
    return _supervise(argv, prepared, placement, shown=shlex.quote(shown))


def _place(config: RunConfig) -> Placement:
    """Raises UserError where this machine, or a host of the host file, cannot take its ranks."""
    if config.hostfile is None:
        gpus = machine.gpus()
        return Placement(machine.ranks(config.num_gpus, len(gpus)), bool(gpus))
    from trainer.launch.hosts import check, hostfile

    hosts = hostfile.read(config.hostfile)
    common = check.check_hosts(hosts, settle_paths(config))
    return Placement(sum(host.slots for host in hosts), common.on_gpu, common.port)


def _supervise(arguments: Sequence[str], prepared: PreparedRun, placement: Placement, *, shown: str) -> int:
    """Start the ranks, see them end, and say in one line what went wrong. Returns the exit code."""
    from trainer.launch import deepspeed
    from trainer.launch.hosts import ssh

    run_dir, config = prepared.run_dir, prepared.config
    again = f"continue with ./launch.sh --run {shown} --resume"
    run_directory.take_mistake(run_dir)
    try:
        if placement.port is None or config.hostfile is None:
            code = deepspeed.run(
                arguments, ranks=placement.world_size, on_gpu=placement.on_gpu, run_dir=run_dir
            )
        else:
            code = ssh.run(
                arguments,
                hostfile=config.hostfile,
                port=placement.port,
                timeout=config.run.host_timeout,
                on_gpu=placement.on_gpu,
                run_dir=run_dir,
            )
    except deepspeed.Stopped as stopped:
        print(f"stopped by {stopped.name}; {again}", file=sys.stderr)
        return FAILED
    mistake = run_directory.take_mistake(run_dir)
    if mistake is not None:
        return report(UserError(mistake))
    if code == MISTAKE:
        return MISTAKE  # the rank could not leave its line and has printed it
    if code == 0 and run_directory.is_finished(run_dir):
        return DONE
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    print(f"error: the ranks ended ({how}) before the run was finished, see above; {again}", file=sys.stderr)
    return FAILED
