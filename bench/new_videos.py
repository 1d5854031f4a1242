"""How well content ranks videos that nobody has watched yet.

    python -m bench.new_videos                                # the synthetic world
    python -m bench.new_videos --data data/titles --preset microlens -- --model.tcd.enabled false

A tenth of the videos, drawn at random, lose their training events, as if they were newer than the model; the
targets of validation and test stay. Two models are trained on what is left: with content in the embeddings
that are ranked (`--model.content_half` as the preset has it), and without. Then test targets are ranked:

    all users among all videos      the usual evaluation
    new targets among all videos    users whose target is one of the new videos
    new targets among new videos    the same users, who get new videos alone, as by `recommend --allow`;
                                    `chance` is what a random order reaches

Intervals of 95 % are over users, and over seeds where there are several. Runs that are finished are kept
under --out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.command import run_command
from bench.data import data_set, write_features
from bench.report import RESULTS, Report, processor
from bench.sequence_knn import Queries, queries, read
from shards import Index
from trainer import run_directory
from trainer.evaluation import ranks
from trainer.serving import Recommender
from tune.statistics import Bootstrap

SHARE = 0.1  # of the videos
EMBEDDINGS: dict[str, list[str]] = {"IDs and content": [], "IDs": ["--model.content_half", "0"]}
SHOWN = ("hr@10", "ndcg@10")
K = 10
BEYOND = K  # the place of a target that is not among the first K
COLUMNS = "user=user,item=item,time=time,split=split"
Gains = dict[str, np.ndarray]  # what each user adds to each metric of SHOWN


def main() -> None:
    """Make the data set, train what is missing, write the CSV."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.new_videos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="data set with features (default: the synthetic world)")
    parser.add_argument("--preset", default="study", help="of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/new-videos"), help="default: %(default)s")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    settings, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    index = Index.load(data_set(settings.data))
    if not index.features:
        parser.error(f"{index.path} has no features, and new videos are known by them alone")
    folder = settings.out / index.name
    if not (folder / "data").exists():
        hold_out(index, folder)
    held_out = Index.load(folder / "data")
    asked, new = new_targets(held_out)
    report = Report(
        RESULTS / f"new-videos-{index.name}.csv", f"{processor()}; the figures do not depend on it"
    )
    for name, more in EMBEDDINGS.items():
        found: dict[str, list[Gains]] = {}
        for seed in range(settings.seeds):
            run = folder / "runs" / f"{name.replace(' ', '-')}-{seed}"
            train(run, folder / "data", ["--preset", settings.preset, "--seed", str(seed), *options, *more])
            for ranked, gains in evaluate(run, held_out, asked, new).items():
                found.setdefault(ranked, []).append(gains)
        for ranked, of_seeds in found.items():
            show(report, name, ranked, of_seeds)
    show(report, "chance", "new targets among new videos", [chance(len(new), len(asked))])
    report.close(f"{len(new):,} of {held_out.videos:,} videos are new")


def hold_out(index: Index, folder: Path) -> None:
    """Make `folder`/data: the data set without the training events of a tenth of its videos."""
    folder.mkdir(parents=True, exist_ok=True)
    block = read(index)
    drawn = 1 + np.random.default_rng(0).permutation(index.videos)[: round(SHARE * index.videos)]
    place = np.arange(len(block.item)) - np.repeat(block.starts[:-1], block.length)
    train_end, valid_end = (np.repeat(end, block.length) for end in block.boundary.T)
    split = np.where(place < train_end, "train", np.where(place < valid_end, "valid", "test"))
    kept = (split != "train") | ~np.isin(block.item, drawn)
    user = np.repeat(np.asarray(index.user_ids())[block.user], block.length)
    columns = {
        "user": user[kept],
        "item": np.asarray(index.item_ids())[block.item[kept] - 1],
        "time": place[kept],
        "split": split[kept],
    }
    pq.write_table(pa.table(columns), folder / "events.parquet")
    write_features(index, folder / "features.npz")
    source = ["shards", "import", "table", str(folder / "events.parquet"), "--columns", COLUMNS]
    more = [
        "--split",
        "given",
        "--features",
        str(folder / "features.npz"),
        "--name",
        f"{index.name}-new-videos",
    ]
    command(folder / "import.log", *source, *more, "--out", str(folder / "data"))


def new_targets(index: Index) -> tuple[Queries, np.ndarray]:
    """The users whose test target has no training event, and all such videos, int64 rows."""
    new = 1 + np.flatnonzero(index.train_counts()[1:] == 0)
    asked = queries(read(index), "test")
    chosen = np.flatnonzero(np.isin(asked.target, new))
    histories = [asked.history[asked.start[u] : asked.start[u + 1]] for u in chosen]
    start = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    return Queries(asked.user[chosen], asked.target[chosen], start, np.concatenate(histories)), new


def train(run: Path, data: Path, options: list[str]) -> None:
    """Train, or go on with a run that was cut off."""
    if not (run / run_directory.RESULTS).exists():
        again = ["--resume"] if run.exists() else ["--data", str(data), *options]
        run.parent.mkdir(exist_ok=True)
        command(run.with_suffix(".log"), "trainer", "--run", str(run), "--num_gpus", "1", *again)


def command(log: Path, *words: str) -> None:
    """Run `python -m WORDS`; what it prints goes to the log."""
    with open(log, "a") as file:
        if subprocess.run([sys.executable, "-m", *words], stdout=file, stderr=file).returncode:
            sys.exit(f"error: python -m {words[0]} ended, see {log}: {log.read_text()[-2000:]}")


def evaluate(run: Path, index: Index, asked: Queries, new: np.ndarray) -> dict[str, Gains]:
    """What each user adds, by which videos were ranked for whom."""
    kept = ranks.read(run_directory.ranks(run, "test"))
    ids = np.asarray(index.item_ids())
    histories = [
        ids[asked.history[asked.start[u] : asked.start[u + 1]] - 1].tolist() for u in range(len(asked))
    ]
    recommended = Recommender.load(run).recommend(histories, k=K, allow=ids[new - 1].tolist())
    targets = ids[asked.target - 1].tolist()
    places = [
        next((place for place, (video, _) in enumerate(row) if video == target), BEYOND)
        for row, target in zip(recommended, targets, strict=True)
    ]
    return {
        "all users among all videos": kept.gains(),
        "new targets among all videos": kept.gains(kept.count == 0),
        "new targets among new videos": gains_at(np.array(places)),
    }


def gains_at(place: np.ndarray) -> Gains:
    """What users add whose targets are at these places, the first being 0."""
    hit = place < K
    return {"hr@10": hit.astype(float), "ndcg@10": np.where(hit, 1 / np.log2(place + 2.0), 0.0)}


def chance(videos: int, users: int) -> Gains:
    """What a random order of so many videos gives each user on average."""
    every = gains_at(np.arange(videos))
    return {name: np.full(users, gain.mean()) for name, gain in every.items()}


def show(report: Report, name: str, ranked: str, of_seeds: list[Gains]) -> None:
    """Write a row."""
    seeds, users = range(len(of_seeds)), len(of_seeds[0]["hr@10"])
    row: dict[str, object] = {"embeddings": name, "ranked": ranked, "seeds": len(seeds), "users": users}
    for metric in SHOWN:
        estimate = Bootstrap({seed: of_seeds[seed][metric] for seed in seeds}).mean(seeds)
        row |= {metric: estimate.value, f"{metric} low": estimate.low, f"{metric} high": estimate.high}
    report.add(**row)


if __name__ == "__main__":
    run_command(main)
