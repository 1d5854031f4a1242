"""What a checkpoint costs: how long training waits for it, and how slow steps are while it is written.

    python -m bench.saving [--videos 100000] [--dim 256] [--steps 60] [--every 12]

One rank on the CPU, one thread, wall seconds, medians over the saves and the steps. A model with a table of
that many videos is trained by the run's own loop; every save is copied to host memory while training waits,
then written, synced and checked by a thread. `steps while it is written` end before the thread does.
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
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport


class Enough(Exception):
    """As many steps as were asked for."""


class Seconds(Callback):
    """Collects the seconds of steps and of the parts of a save."""

    def __init__(self, steps: int) -> None:
        self.steps, self.of = steps, defaultdict[str, list[float]](list)
        Checkpoints.save = self.timed("training waits", Checkpoints.save)  # type: ignore[method-assign]
        writer.Writer._run = self.timed("written", writer.Writer._run)  # type: ignore[method-assign]
        writer.file_sha256 = self.timed("sha256", writer.file_sha256)

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with its seconds collected."""

        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = work(*arguments, **named)
            self.of[name].append(time.perf_counter() - started)
            return result

        return run

    def on_start(self, loop: Loop) -> None:
        self.checkpoints = next(c.checkpoints for c in loop.callbacks if hasattr(c, "checkpoints"))

    def on_step(self, loop: Loop, report: StepReport) -> None:
        """A step counts as one while a checkpoint is written if the thread was and is still at work."""
        busy = not self.checkpoints._writer._done
        if loop.progress.step > 5:
            self.of[f"step {busy}"].append(report.seconds)
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
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=12, help="steps between two saves")
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
    of = {name: statistics.median(values) for name, values in seconds.of.items()}
    report = Report(RESULTS / "saving.csv", "CPU, one rank, wall seconds")
    sha256 = sum(seconds.of["sha256"]) / len(seconds.of["written"])
    for what, value in {
        "training waits: copy to host memory": of["training waits"],
        "the thread: write, sync, sha256": of["written"],
        "of that sha256": sha256,
        "step, nothing being written": of["step False"],
        "step while it is written": of["step True"],
    }.items():
        report.add(what=what, seconds=value, GB=size, **{"seconds a GB": value / size})
    report.close(f"sha256: {sha256 / (of['training waits'] + of['written']):.0%} of a save")


if __name__ == "__main__":
    main()
