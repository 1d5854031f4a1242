"""Sampling: users per core-second with the full reverse chains, and what fewer steps cost in accuracy.

    python -m bench.sampling [--run RUN] [--rounds 5]

A run's best weights rank its test users with all steps of both chains, in turn with a chain of DreamRec's
form (500 guided steps from noise; see `contestants/chain.py`). What differs: ours refines a preference of the
backbone, from a light corruption on, and ranks a target; DreamRec makes one from noise, and finds the
20 best. Then the first 10,000 test users are ranked with fewer steps. Without --run a small model is trained
on the synthetic world first, in a minute. Writes bench/results/sampling-RUN.csv.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.contestants import Entry, started, take_turns
from bench.data import data_set
from bench.report import RESULTS, Report, goal
from bench.timing import Spread, ratio
from trainer import run_directory
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.run import open_inputs, open_run, single_world

STEPS = (1, 2, 3, 5, 0)  # 0: all
USERS = 10_000  # the same ones for each number of steps
DREAMREC = 396  # rows per core-second that its own code reached on MovieLens-100K: the goal is ten times that


def main() -> None:
    """Race, evaluate, write the CSV, and compare with the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, help="a trained run (default: trains one)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--out", type=Path, help="the CSV")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = settings.run or train(Path(folder) / "world")
        measure(run, settings.rounds, settings.out or RESULTS / f"sampling-{run.name}.csv")


def train(run: Path) -> Path:
    """A small model on the synthetic world."""
    options = ["--preset", "study", "--data", str(data_set(None)), "--run", str(run), "--num_gpus", "1"]
    subprocess.run([sys.executable, "-m", "trainer", *options], check=True, stdout=sys.stderr)
    return run


def measure(run: Path, rounds: int, out: Path) -> None:
    """The race, and a row for each number of steps."""
    config, best = open_run(str(run), None)
    inputs = open_inputs(config, best, single_world())
    model, stream = best.model(inputs), inputs.eval_stream("test", config.eval)
    size = (str(inputs.index.videos), str(config.data.max_length), str(config.model.dim))
    own = ("evaluate", "--config", str(run / run_directory.CONFIG), "--eval.test_sampler_steps", "0")
    entries = [Entry("ours", "ours", own), Entry("DreamRec's form", "chain", size)]
    with started(entries) as contestants:
        rates = take_turns(contestants, 1, rounds)
    report = Report(out)
    times, full = ratio(rates["ours"], rates["DreamRec's form"]), Spread.of(rates["ours"])
    theirs = Spread.of(rates["DreamRec's form"])
    report.add(
        what="DreamRec's form, 500 steps", **{"users/core-s": theirs.median, "hr@10": "-", "ndcg@10": "-"}
    )
    report.add(what="ours, all steps, in turn", **{"users/core-s": full.median, "hr@10": "-", "ndcg@10": "-"})
    batches = list(itertools.islice(stream, -(-USERS // config.eval.batch_size)))
    for steps in STEPS:
        begin = time.process_time()
        metrics = evaluate(model, batches, inputs, config.eval, steps)
        rate = metrics["users"] / (time.process_time() - begin)
        name = f"ours, {steps} steps at most" if steps else "ours, all steps"
        report.add(
            what=name, **{"users/core-s": rate, "hr@10": metrics["hr@10"], "ndcg@10": metrics["ndcg@10"]}
        )
    report.close(
        f"ours is x DreamRec's form: {times.median:.3g} ({times.lowest:.3g} to {times.highest:.3g})",
        goal("full chains, users per core-second", full.median, least=10 * DREAMREC),
    )


if __name__ == "__main__":
    main()
