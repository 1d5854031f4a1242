"""A data set that grows day by day: adding each day to yesterday's run, beside one training on all of it.

    python -m bench.increments                                 # the synthetic world
    python -m bench.increments --data data/titles --preset microlens

The events come in days: a first log with half of them, then ten of equal size. There are two ways:

    scratch    `import` of all logs so far, and training from fresh weights: of the first log and of all
    increment  each day, `append` of its log to yesterday's data set, and `--init_from` yesterday's run

Both data sets of the last day are equal but for the order of rows, so their test splits are, too: each user's
last event. No test event is trained on before the day after. Cost is process time of all that a day takes.

An event's time is that of the data set where it has times. Otherwise a user's event k of n is at
`(k + r) / n`, with a number r in 0..1 drawn for each user: every sequence is cut in proportion.

Finished days are kept under --out, so the command continues where it was stopped, with the day begun again.
It writes bench/results/increments-NAME.csv, one row per day and way, when all days are there. Intervals of
95 % are over users: there is one seed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.command import run_command
from bench.data import data_set, write_features
from bench.report import RESULTS, Report
from shards import Block, Index, read_sequence_shard
from trainer import files, run_directory
from trainer.evaluation import ranks
from tune.statistics import Bootstrap, Estimate

Row = dict[str, Any]

SHOWN = ("hr@10", "ndcg@10")
TICKS = 1 << 30  # of a made-up time in 0..1
FEATURES = "features.npz"
COLUMNS = ("--columns", "user=user,item=item,time=time")


def main() -> None:
    """Measure all days, write the CSV and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.increments", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", type=Path, help="the data set (default: the synthetic world)")
    add("--preset", default="default", help="of the runs (default: %(default)s)")
    add("--days", type=int, default=10, help="days after the first log (default: %(default)s)")
    add("--epochs", type=int, default=2, help="of a run that starts from yesterday's (default: %(default)s)")
    add(
        "--out", type=Path, default=Path("runs/increments"), help="logs, data and runs (default: %(default)s)"
    )
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    settings, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    index = Index.load(data_set(settings.data))
    folder = settings.out / index.name
    if not (folder / "logs").exists():
        write_days(index, folder, settings.days)
    days = Days(folder, [f"--preset={settings.preset}", "--num_gpus", "1", *options], settings.epochs)
    order = [("scratch", 0), *(("increment", day) for day in range(1, settings.days + 1))]
    rows = [days.measure(way, day) for way, day in [*order, ("scratch", settings.days)]]
    report = Report(RESULTS / f"increments-{index.name}.csv")
    for row in rows:
        report.add(**row)
    report.close(f"{table(rows)}\n{days.difference(settings.days)}")


def write_days(index: Index, folder: Path, days: int) -> None:
    """Write the events as `folder`/logs/00.parquet, 01, ..., and the features, if any, as one file."""
    block = Block.concatenate(read_sequence_shard(index, entry) for entry in index.sequence_shards)
    time = block.time if block.time.any() else proportional_times(block.length)
    order = np.argsort(time, kind="stable")  # those of a user are in order already
    half = len(order) // 2
    ends = half + np.arange(days + 1) * (len(order) - half) // days
    users, items = (pa.array(ids) for ids in (index.user_ids(), index.item_ids()))
    user = np.repeat(np.arange(len(block.length)), block.length)
    folder.mkdir(parents=True, exist_ok=True)
    if index.features:
        write_features(index, folder / FEATURES)
    with files.replacing(folder / "logs") as logs:
        logs.mkdir()
        for day, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows = order[first:end]
            columns = {"user": users.take(user[rows]), "item": items.take(block.item[rows] - 1)}
            pq.write_table(pa.table({**columns, "time": time[rows]}), logs / f"{day:02}.parquet")


def proportional_times(length: np.ndarray) -> np.ndarray:
    """A time for each event of users with `length` [n] events, from 1 on: int64 [sum length]."""
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    shift = np.repeat(np.random.default_rng(0).random(len(length)), length)
    return 1 + ((place + shift) / np.repeat(length, length) * TICKS).astype(np.int64)


class Days:
    """The days in `folder`. All runs get `options`, those that start from another `epochs` of training."""

    def __init__(self, folder: Path, options: list[str], epochs: int) -> None:
        self.folder, self.options, self.epochs = folder, options, epochs
        features = folder / FEATURES
        self.features = ["--features", str(features)] if features.exists() else []

    def measure(self, way: str, day: int) -> Row:
        """Return the row of a day, which is done first where it is not."""
        done = self.folder / f"{way}-{day:02}.json"
        if not done.exists():
            files.write_json(done, self.do(way, day))
            print(f"day {day}, {way}: done", file=sys.stderr, flush=True)
        row: Row = files.read_json(done)
        return row

    def do(self, way: str, day: int) -> Row:
        """Make the data set of a day and train on it."""
        data, run = (self.folder / kind / f"{way}-{day:02}" for kind in ("data", "runs"))
        for begun in (data, run):
            shutil.rmtree(begun, ignore_errors=True)
            begun.parent.mkdir(exist_ok=True)
        logs = [str(self.folder / "logs" / f"{n:02}.parquet") for n in range(day + 1)]
        yesterday = f"{'scratch' if day == 1 else way}-{day - 1:02}"
        more = []
        if way == "scratch":
            made = ["import", "table", *logs]
        else:
            made = ["append", str(self.folder / "data" / yesterday), logs[-1]]
            more = [
                "--init_from",
                str(self.folder / "runs" / yesterday),
                "--train.max_epochs",
                str(self.epochs),
            ]
        out = ["--out", str(data)]
        making = self.core_seconds(run, "shards", *made, *COLUMNS, *self.features, *out)
        arguments = ["--data", str(data), "--run", str(run), *self.options, *more]
        training = self.core_seconds(run, "trainer", *arguments)
        results = json.loads((run / run_directory.RESULTS).read_text())
        row: Row = {"day": day, "way": way, "events": Index.load(data).interactions}
        row |= {"data core-seconds": round(making, 1), "training core-seconds": round(training, 1)}
        row |= {"epochs": results["epochs"]}
        gains = ranks.read(run_directory.ranks(run, "test")).gains()
        for name in SHOWN:
            mean = Bootstrap({way: gains[name]}).mean([way])
            row |= {f"test {name}": mean.value, f"test {name} low": mean.low, f"test {name} high": mean.high}
        return row

    def difference(self, day: int) -> str:
        """Return in words how far the day's increment is from training on all events at once."""
        increment, scratch = (
            ranks.read(run_directory.ranks(self.folder / "runs" / f"{way}-{day:02}", "test"))
            for way in ("increment", "scratch")
        )
        found = paired_difference(increment, scratch)
        return (
            f"NDCG@10 of day {day}, increment - scratch: "
            f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
        )

    def core_seconds(self, run: Path, *command: str) -> float:
        """Process time of a command and its children; what it prints goes to a file beside the run."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(run.with_suffix(".log"), "a") as log:
            subprocess.run(
                [sys.executable, "-m", *command], check=True, stdout=log, stderr=log, env=os.environ
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def paired_difference(one: ranks.Ranks, other: ranks.Ranks) -> Estimate:
    """Estimate the NDCG@10 of `one` less that of `other`: the same users, in any order."""
    by_user = [kept.gains()["ndcg@10"][np.argsort(np.asarray(kept.user))] for kept in (one, other)]
    return Bootstrap(dict(enumerate(by_user))).difference([(0, 1)])


def table(rows: list[Row]) -> str:
    """Return the days in Markdown: accuracy on the day's test split, cost, and the cost of all increments."""
    lines = ["| day | way | events | HR@10 | NDCG@10 | core-seconds |", "|---" * 6 + "|"]
    costs = [row["data core-seconds"] + row["training core-seconds"] for row in rows]
    for row, cost in zip(rows, costs, strict=True):
        hr, ndcg, low, high = (
            f"{row[f'test {name}']:.4f}" for name in (*SHOWN, f"{SHOWN[1]} low", f"{SHOWN[1]} high")
        )
        cells = [
            str(row["day"]),
            row["way"],
            str(row["events"]),
            hr,
            f"{ndcg} ({low} to {high})",
            f"{cost:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, f"All increments together: {sum(costs[1:-1]):.0f} core-seconds."])


if __name__ == "__main__":
    run_command(main)
