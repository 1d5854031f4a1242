"""A baseline without training: sequence k-nearest-neighbours, as of Ludewig and Jannach (SKNN, VSKNN).

    python -m bench.sequence_knn --data DIR

What similar users watched is recommended. A user's history is a vector over the videos, with a weight by how
long ago a video was; the neighbours are the K other users whose training sequences are nearest to it:

    similarity(history h, user n) = sum over their common videos of weight(video in h) / sqrt(videos of n)
    score(video) = sum of the similarities of the neighbours that have it [* log(users / users of the video)]

Only training sequences are neighbours. The evaluation is that of the models: the same split, all videos
ranked, the history left out, ties as in `mealrec.metrics`. Weights, K and the last factor are chosen by
NDCG@10 on the validation split, from GRID; the test split is looked at once. Intervals of 95 % are over
users.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from bench.command import run_command
from bench.data import data_set
from bench.report import RESULTS, Report, processor
from mealrec import metrics
from shards import Block, Index, read_sequence_shard
from shards.format.splits import evaluated
from tune.statistics import Bootstrap

Decay = Callable[[np.ndarray], np.ndarray]
# Weight of a video by its distance from the end of the history, 1 for the newest.
DECAYS: dict[str, Decay] = {
    "equal": lambda distance: np.ones(len(distance)),
    "linear": lambda distance: np.maximum(1.1 - 0.1 * distance, 0.0),
    "inverse": lambda distance: 1.0 / distance,
    "quadratic": lambda distance: 1.0 / distance**2,
}
NEIGHBOURS = (50, 100, 200, 500, 1000)
RARITY = (False, True)
BATCH = 256  # users scored at once
GRAIN = 2.0**-20  # similarities are multiples of it: their sums are exact in any order, and ties are ties
SHOWN = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")


@dataclass(frozen=True)
class Choice:
    """A point of the grid: the name of a decay, K, and whether rare videos count more."""

    decay: str
    neighbours: int
    rarity: bool


GRID = [Choice(*point) for point in itertools.product(DECAYS, NEIGHBOURS, RARITY)]


@dataclass(frozen=True)
class Queries:
    """The users of a split: their rows, targets and histories (flat, from `start[u]` to `start[u + 1]`)."""

    user: np.ndarray
    target: np.ndarray
    start: np.ndarray
    history: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


def read(index: Index) -> Block:
    """All sequences of a data set."""
    return Block.concatenate(read_sequence_shard(index, shard) for shard in index.sequence_shards)


def training_matrix(block: Block, videos: int) -> sparse.csr_matrix:
    """Which videos the training part of each user has: [users, videos + 1] of ones."""
    place = np.arange(len(block.item)) - np.repeat(block.starts[:-1], block.length)
    trained = place < np.repeat(block.boundary[:, 0], block.length)
    rows = np.repeat(np.arange(len(block.length)), block.length)[trained]
    matrix = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, block.item[trained])), shape=(len(block.length), videos + 1)
    )
    matrix.data[:] = 1.0  # a video that was watched twice counts once
    return matrix


def queries(block: Block, split: str) -> Queries:
    """The users of "valid" or "test": the target is the last item of the part, the history all before it."""
    chosen = np.flatnonzero(evaluated(block.length, block.boundary)[split == "test"])
    stop = (block.boundary[:, 1] if split == "valid" else block.length)[chosen].astype(np.int64)
    first = block.starts[:-1][chosen].astype(np.int64)
    start = np.concatenate([[0], np.cumsum(stop - 1)])
    flat = np.arange(start[-1]) - np.repeat(start[:-1], stop - 1) + np.repeat(first, stop - 1)
    return Queries(chosen, block.item[first + stop - 1].astype(np.int64), start, block.item[flat])


def ranks(
    training: sparse.csr_matrix, asked: Queries, choices: list[Choice]
) -> dict[Choice, tuple[np.ndarray, np.ndarray]]:
    """Videos above each user's target and others equal to it, int64 [users] each.

    choices: of one decay.
    """
    (decay,) = {choice.decay for choice in choices}
    length = np.maximum(np.asarray(training.sum(axis=1)).ravel(), 1)
    by_length = sparse.diags(length**-0.5) @ training
    popularity = np.asarray(training.sum(axis=0)).ravel()
    rarity = np.log(training.shape[0] / np.maximum(popularity, 1))
    found: dict[Choice, list[tuple[np.ndarray, np.ndarray]]] = {choice: [] for choice in choices}
    for rows in _batches(len(asked)):
        history, hidden = _histories(asked, rows, DECAYS[decay], training.shape[1])
        similarity = (history @ by_length.T).tocsr()
        similarity.data = np.round(similarity.data / GRAIN) * GRAIN
        for count in dict.fromkeys(choice.neighbours for choice in choices):
            plain = (_nearest(similarity, asked.user[rows], count) @ training).toarray()
            for choice in choices:
                if choice.neighbours == count:
                    score = plain * rarity if choice.rarity else plain
                    found[choice].append(_count(score, asked.target[rows], hidden))
    return {
        choice: (np.concatenate([a for a, _ in parts]), np.concatenate([e for _, e in parts]))
        for choice, parts in found.items()
    }


def _batches(users: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, users)) for start in range(0, users, BATCH))


def _histories(
    asked: Queries, rows: slice, decay: Decay, width: int
) -> tuple[sparse.csr_matrix, tuple[np.ndarray, np.ndarray]]:
    """Weighted histories [rows, width], and (row, video) of all that is in them."""
    first, end = asked.start[rows.start], asked.start[rows.stop]
    length = np.diff(asked.start[rows.start : rows.stop + 1])
    row, video = np.repeat(np.arange(len(length)), length), asked.history[first:end]
    distance = np.repeat(asked.start[rows.start + 1 : rows.stop + 1], length) - np.arange(first, end)
    # Of a video that was watched several times, the newest counts: the last one of those.
    _, newest = np.unique((row * width + video)[::-1], return_index=True)
    kept = len(video) - 1 - newest
    weights = decay(distance[kept].astype(np.float64))
    matrix = sparse.csr_matrix((weights, (row[kept], video[kept])), shape=(len(length), width))
    return matrix, (row, video)


def _nearest(similarity: sparse.csr_matrix, user: np.ndarray, count: int) -> sparse.csr_matrix:
    """The `count` largest similarities of each row, without the user's own; of equal ones the first users."""
    rows, columns, values = [], [], []
    for row, own in enumerate(user):
        part = slice(similarity.indptr[row], similarity.indptr[row + 1])
        others = similarity.indices[part] != own
        column, value = similarity.indices[part][others], similarity.data[part][others]
        best = np.lexsort((column, -value))[:count]
        rows.append(np.full(len(best), row))
        columns.append(column[best])
        values.append(value[best])
    content = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(content, shape=similarity.shape)


def _count(
    score: np.ndarray, target: np.ndarray, hidden: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Videos above the target and others equal to it, without the padding and what is in the history."""
    own = score[np.arange(len(target)), target][:, None].copy()
    score[:, 0] = -np.inf
    score[hidden] = -np.inf
    score[np.arange(len(target)), target] = own[:, 0]  # the target itself is never left out
    return (score > own).sum(1), (score == own).sum(1) - 1


def gains(counts: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """What each user adds to each metric."""
    above, equal = map(torch.from_numpy, counts)
    return {name: gain.numpy() for name, gain in metrics.gains(above, equal).items()}


def main() -> None:
    """Choose on validation, look at the test split once, write the CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data set directory (default: the synthetic world)")
    parser.add_argument(
        "--out", type=Path, help="the CSV (default: bench/results/sequence-knn-DATA.csv, the data set's name)"
    )
    settings = parser.parse_args()
    index = Index.load(data_set(settings.data))
    block = read(index)
    training = training_matrix(block, index.videos)
    out = settings.out or RESULTS / f"sequence-knn-{index.name}.csv"
    report = Report(out, device=f"{processor()}; the figures do not depend on it")

    def show(split: str, choice: Choice, counts: tuple[np.ndarray, np.ndarray]) -> float:
        of_user = gains(counts)
        row: dict[str, object] = {
            "decay": choice.decay,
            "neighbours": choice.neighbours,
            "rarity": str(choice.rarity).lower(),
            "split": split,
            "users": len(counts[0]),
        }
        bootstrap = Bootstrap({name: of_user[name] for name in SHOWN})
        for name in SHOWN:
            estimate = bootstrap.mean([name])
            row |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
        report.add(**row)
        return float(of_user["ndcg@10"].mean())

    scores: dict[Choice, float] = {}
    asked = queries(block, "valid")
    for decay in DECAYS:
        of_decay = [choice for choice in GRID if choice.decay == decay]
        for choice, counts in ranks(training, asked, of_decay).items():
            scores[choice] = show("valid", choice, counts)
    best = max(scores, key=lambda choice: scores[choice])
    show("test", best, ranks(training, queries(block, "test"), [best])[best])
    report.close(f"data set: {index.name}; the last row is the best of validation on the test split")


if __name__ == "__main__":
    run_command(main)
