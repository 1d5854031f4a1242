"""The operator: the process that checks everything, prepares the run, starts the ranks and sees them end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import checkpoint_files, files, options, run_directory, stacks
from trainer.config import RunConfig
from trainer.errors import DONE, FAILED, MISTAKE
from trainer.launch.placement import Placement, place, place_again
from trainer.prepare import PreparedRun, prepare


def main(argv: Sequence[str]) -> int:
    """Run the operator. Returns the exit code."""
    config = options.parse(argv)
    placement = place(config)
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


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: exit code of the operator, a line to print, and whether a restart may help."""

    code: int
    line: str = ""
    lost: bool = False


def _supervise(arguments: Sequence[str], prepared: PreparedRun, placement: Placement, *, shown: str) -> int:
    """Start the ranks, again after a loss, see them end, and say in one line what went wrong.

    Returns the exit code.
    """
    run_dir, config = prepared.run_dir, prepared.config
    run_directory.forget_save_request(run_dir)
    signal.signal(signal.SIGUSR1, lambda signum, frame: _ask_to_save(run_dir))
    steps: list[int] = []  # of the checkpoint from which each restart continues
    while True:
        ended = _run(arguments, config, placement, run_dir)
        if not ended.lost or len(steps) == config.max_restarts:
            break
        saved = checkpoint_files.newest(run_dir / run_directory.CHECKPOINTS)
        steps.append(checkpoint_files.step(saved) if saved else 0)
        before = placement
        run_directory.await_old_ranks(run_dir, run_directory.RANKS_END_WITHIN + config.run.host_timeout)
        placement = place_again(config, before, run_dir, rank_lost=steps[-1:] == steps[-2:-1])
        config.num_gpus = placement.world_size
        files.write_text(run_dir / run_directory.CONFIG, options.dump(config))
        arguments = ["--run", str(run_dir), "--resume"]
        print(
            f"{ended.line}; restart {len(steps)} of {config.max_restarts}: continuing after step {steps[-1]}"
            f" on {_count(placement, before)}",
            file=sys.stderr,
            flush=True,
        )
    again = f"; continue with ./launch.sh --run {shown} --resume" if ended.code == FAILED else ""
    if ended.line:
        print(f"{ended.line}{again}", file=sys.stderr)
    return ended.code


def _run(arguments: Sequence[str], config: RunConfig, placement: Placement, run_dir: Path) -> Ended:
    """Start the ranks once and see them end."""
    from trainer.launch import deepspeed
    from trainer.launch.hosts import ssh
    from trainer.launch.stopped import Hung

    with tempfile.TemporaryDirectory(prefix="mealrec-notes-") as notes:
        run_directory.take_ending(run_dir)
        stacks.forget(run_dir)
        try:
            if placement.hostfile is None:
                code = deepspeed.run(
                    arguments,
                    ranks=placement.world_size,
                    on_gpu=placement.on_gpu,
                    run_dir=run_dir,
                    notes=Path(notes),
                    timeout=config.run.host_timeout,
                )
            else:
                code = ssh.run(
                    arguments,
                    hostfile=placement.hostfile,
                    port=placement.port,
                    timeout=config.run.host_timeout,
                    on_gpu=placement.on_gpu,
                    run_dir=run_dir,
                )
        except deepspeed.Stopped as stopped:
            return Ended(FAILED, f"stopped by {stopped.name}")
        except Hung as hung:
            return Ended(FAILED, f"error: {hung}{_stacks(run_dir)}", lost=True)
        ending = run_directory.take_ending(run_dir, notes)
    if ending is not None:
        return Ended(ending.code, f"error: {ending.line}")
    if code == MISTAKE:
        return Ended(MISTAKE)  # the rank could not leave its line and has printed it
    if code == 0 and run_directory.is_finished(run_dir):
        return Ended(DONE)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    line = f"error: the ranks ended ({how}) before the run was finished, see above{_stacks(run_dir)}"
    return Ended(FAILED, line, lost=True)


def _ask_to_save(run_dir: Path) -> None:
    """SIGUSR1: pass it on to the ranks, on whichever host they are."""
    with contextlib.suppress(OSError):
        run_directory.ask_to_save(run_dir)


def _stacks(run_dir: Path) -> str:
    folder = stacks.written(run_dir)
    return f"; stacks of the ranks: {folder}" if folder else ""


def _count(now: Placement, before: Placement) -> str:
    ranks = f"{now.world_size} rank{'s' if now.world_size > 1 else ''}"
    return ranks if now.world_size == before.world_size else f"{ranks} instead of {before.world_size}"
