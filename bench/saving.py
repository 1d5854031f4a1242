"""What a checkpoint costs: how long training waits for it, and how slow steps are while it is written.

    python -m bench.saving [--videos 100000] [--dim 256] [--steps 80] [--every 15]

One rank on the CPU, one thread; medians over the saves and the steps, in wall seconds and in core-seconds of
the thread that does the work. A model with a table of that many videos is trained by the run's own loop;
every save is copied to host memory while training waits, then written by another thread.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.loading import draw_sequences
from bench.report import RESULTS, Report
from shards import DataSetWriter
from trainer import checkpoint_files
from trainer.rank import main as rank
from trainer.rank import writer
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport, TrainStep

COPY = "training waits: copy to host memory"  # and the end of the save before, if `--every` is too small
WRITE, SHA256 = "write, sync and sha256", "of that, sha256"
IDLE, BUSY = "step, nothing being written", "step while a checkpoint is written"
ROWS = (COPY, WRITE, SHA256, IDLE, BUSY)


class Enough(Exception):
    """As many steps as were asked for."""


class Seconds(Callback):
    """Collects the seconds of steps and of the parts of a save."""

    def __init__(self, steps: int) -> None:
        self.steps, self.of = steps, defaultdict[str, list[tuple[float, float]]](list)
        Checkpoints.save = self.timed(COPY, Checkpoints.save)  # type: ignore[method-assign]
        writer.Writer._run = self.timed(WRITE, writer.Writer._run)  # type: ignore[method-assign]
        writer.file_sha256 = self.timed(SHA256, writer.file_sha256)
        TrainStep.__call__ = self.timed("step", TrainStep.__call__)  # type: ignore[method-assign]

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with its seconds collected."""

        def run(*arguments: Any, **named: Any) -> Any:
            wall, cores = time.perf_counter(), time.thread_time()
            result = work(*arguments, **named)
            self.of[name].append((time.perf_counter() - wall, time.thread_time() - cores))
            return result

        return run

    def on_start(self, loop: Loop) -> None:
        self.checkpoints = next(c.checkpoints for c in loop.callbacks if isinstance(c, Checkpointing))
        self.busy = False

    def on_step(self, loop: Loop, report: StepReport) -> None:
        """File the step by whether the thread was at work before it and still is."""
        busy, self.busy = self.busy, not self.checkpoints._writer._done
        seconds = self.of["step"].pop()
        if loop.progress.step > 5 and busy == self.busy:
            self.of[BUSY if busy else IDLE].append(seconds)
        if loop.progress.step == self.steps:
            raise Enough


def write_data(path: Path, videos: int) -> None:
    """Some thousand users who have seen random videos."""
    length, item = draw_sequences(4000, videos)
    with DataSetWriter(
        path, name="saving", item_ids=np.arange(1, videos + 1), user_type="int64", split={"kind": "none"}
    ) as out:
        everything = np.stack([length, length], axis=1)
        out.add_users(np.arange(len(length)), length, item, np.zeros(len(item)), everything)
        out.commit({})


def main() -> None:
    """Train, print the medians and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m bench.saving", description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--every", type=int, default=15, help="steps between two saves")
    settings = parser.parse_args()
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data", settings.videos)
        seconds, run = Seconds(settings.steps), Path(folder) / "run"
        options = ["--data", f"{folder}/data", "--run", str(run), "--model.dim", str(settings.dim)]
        options += ["--train.batch_size", "64", "--train.save_every_steps", str(settings.every)]
        options += ["--model.objective.softmax", "sampled", "--train.tensorboard", "false"]
        with contextlib.suppress(Enough):
            rank.run(options, [seconds])
        newest = checkpoint_files.newest(run / "checkpoints")
        size = sum(path.stat().st_size for path in newest.iterdir()) / 1e9 if newest else sys.exit("no save")
    report = Report(RESULTS / "saving.csv")
    rows = {
        name: [statistics.median(column) for column in zip(*seconds.of[name], strict=True)] for name in ROWS
    }
    # Files differ in size, so these are means over the saves.
    rows[SHA256] = [sum(column) / len(seconds.of[WRITE]) for column in zip(*seconds.of[SHA256], strict=True)]
    for name, (wall, cores) in rows.items():
        report.add(what=name, wall=wall, cores=cores, GB=size)
    share = rows[SHA256][1] / (rows[COPY][1] + rows[WRITE][1])
    report.close(f"sha256: {rows[SHA256][1] / size:.2f} core-seconds a GB, {share:.0%} of a save's")


if __name__ == "__main__":
    main()
