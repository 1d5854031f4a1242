"""Accuracy of peers' models at convergence: RecBole's SASRec, RecTools' SASRec and BERT4Rec.

    python -m bench.baselines --data DIR --preset microlens --jobs 2

Each trains in its own environment (`make bench-peers`) on one thread, with its own defaults except for the
length, the width and two layers of two heads, which are those of the preset, and the full softmax. Training
ends when validation NDCG@10 has not risen for --patience epochs. The split, the ranking of all videos and the
history that is left out of it are ours; the epoch is chosen on validation. Cut off, the same command goes on
after the last whole epoch. Intervals of 95 % are over users.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.baselines.fitting import SPLITS
from bench.command import run_command
from bench.contestants import PEERS, ROOT
from bench.data import data_set, write_events
from bench.report import RESULTS, Report, processor
from shards import Index
from trainer import presets
from tune.statistics import Bootstrap

SHOWN = {"hr@10": 10, "ndcg@10": 10, "hr@20": 20, "ndcg@20": 20}


@dataclass(frozen=True)
class Baseline:
    """A peer's environment, which its module here has the name of, and its model."""

    peer: str
    package: str
    model: str

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.package} {self.model}"

    @property
    def interpreter(self) -> Path:
        """The Python that runs it."""
        return PEERS / self.peer / "bin" / "python"


BASELINES = (
    Baseline("recbole", "RecBole", "SASRec"),
    Baseline("rectools", "RecTools", "SASRec"),
    Baseline("rectools", "RecTools", "BERT4Rec"),
)


def main() -> None:
    """Train what is not finished, write the CSV, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="data set directory (default: the synthetic world)")
    parser.add_argument("--preset", default="default", help="length and width are its (default: default)")
    parser.add_argument("--patience", type=int, default=20, help="epochs without a better one (default: 20)")
    parser.add_argument("--max-epochs", type=int, default=200, help="at most (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--jobs", type=int, default=1, help="peers at once (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"), help="default: runs/baselines")
    parser.add_argument(
        "--out", type=Path, help="the CSV (default: bench/results/baselines-DATA.csv, the data set's name)"
    )
    settings = parser.parse_args()
    index = Index.load(data_set(settings.data))
    there = [baseline for baseline in BASELINES if baseline.interpreter.exists()]
    if missing := [baseline.name for baseline in BASELINES if baseline not in there]:
        print(f"without {', '.join(missing)}: `make bench-peers` makes their environments", file=sys.stderr)
    folder = settings.runs.absolute() / index.name
    events = folder / "events" / "events.inter"
    if not events.exists():
        write_events(index, folder)

    def run(baseline: Baseline) -> Path:
        out = folder / f"{baseline.name.replace(' ', '-')}-seed{settings.seed}"
        fit(baseline, out, events, settings)
        return out

    with ThreadPoolExecutor(settings.jobs) as pool:
        folders = dict(zip(there, pool.map(run, there), strict=True))
    show(folders, settings.out or RESULTS / f"baselines-{index.name}.csv", index)


def fit(baseline: Baseline, out: Path, events: Path, settings: argparse.Namespace) -> None:
    """Train a baseline, or go on with it. Ends this process where it fails."""
    preset = presets.make(settings.preset)
    numbers = (
        preset.data.max_length,
        preset.model.dim,
        settings.seed,
        settings.patience,
        settings.max_epochs,
    )
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [baseline.interpreter, "-m", f"bench.baselines.{baseline.peer}", baseline.model, out, events]
    with open(log, "a") as file:
        done = subprocess.run(
            [*map(str, [*command, *numbers])], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    if done.returncode:
        sys.exit(f"error: {baseline.name} ended, see {log}: {log.read_text()[-2000:]}")


def show(folders: dict[Baseline, Path], out: Path, index: Index) -> None:
    """Write a row for each baseline and split."""
    progress = {b: json.loads((folder / "progress.json").read_text()) for b, folder in folders.items()}
    versions = {p["package"]: p["version"] for p in progress.values()}
    report = Report(out, device=f"{processor()}, one thread, core-seconds", versions=versions)
    for baseline, folder in folders.items():
        places = np.load(folder / "best.npz")
        for split in SPLITS:
            place = places[f"{split} place"]
            bootstrap = Bootstrap({name: gains(place, name) for name in SHOWN})
            row: dict[str, object] = {
                "model": baseline.name,
                "split": split,
                "users": len(place),
                "epochs": len(progress[baseline]["scores"]),
                "best": int(np.argmax(progress[baseline]["scores"])) + 1,
                "core-s": progress[baseline]["seconds"],
            }
            for name in SHOWN:
                estimate = bootstrap.mean([name])
                row |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
            report.add(**row)
    report.close(f"data set: {index.name}")


def gains(place: np.ndarray, metric: str) -> np.ndarray:
    """What each user adds to a metric, from the place of the target."""
    gain = 1 / np.log2(place + 2.0) if metric.startswith("ndcg") else np.ones(len(place))
    return np.where(place < SHOWN[metric], gain, 0.0)


if __name__ == "__main__":
    run_command(main)
