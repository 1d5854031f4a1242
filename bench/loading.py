"""How fast batches come: sequences per core-second, ours beside plain WebDataset, in one run.

    python -m bench.loading [--users 100000] [--videos 19738] [--rounds 5]

A core-second is a second of process time, all threads and the kernel's share included: waiting for other work
on the machine does not count, though its use of caches and memory does. One torch thread, warm page cache,
batches of 256 padded to their longest row of at most 13 (`ids only` also at 1024). What is measured, `rounds`
times in turn, median reported:

  ids only               TrainStream, features to be joined elsewhere (in device memory, say)
  joined                 TrainStream with the host's feature table: each batch brings its distinct videos once
  joined, a row a view   the same features laid out as the peer has them, [B, L, M, V]
  webdataset, inside     the peer: each user's sample carries the features of its videos; decoded and padded

The peer's tars grow with views and not with videos, so it gets a sample of the users; its size is scaled up.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset

from bench.report import RESULTS, Report
from bench.timing import Spread, alternate, ratio
from shards import DataSetWriter, Features, FeatureTable, Index, TrainStream

LENGTH, FRAMES, WIDTH, BATCH = 13, 8, 512, 256
VIEWS = 7.18  # per user, as in MicroLens-50K
PEER = "webdataset, inside"


def draw_sequences(users: int, videos: int) -> tuple[np.ndarray, np.ndarray]:
    """(length [users], item [sum]): at least 5 views, `VIEWS` on average; few videos have most of them."""
    rng = np.random.default_rng(0)
    length = np.minimum(4 + rng.geometric(1 / (VIEWS - 4), users), 100)
    popularity = (np.arange(videos) + 50.0) ** -0.8
    item = rng.choice(videos, length.sum(), p=popularity / popularity.sum()) + 1
    return length, item


def draw_frames(item: int) -> np.ndarray:
    return np.random.default_rng(item).standard_normal((FRAMES, WIDTH), np.float32).astype(np.float16)


def write_data_set(path: Path, length: np.ndarray, item: np.ndarray, videos: int) -> Index:
    everything = np.stack([length, length], axis=1)
    with DataSetWriter(
        path,
        name="loading",
        item_ids=np.arange(1, videos + 1),
        user_type="int64",
        split={"kind": "none"},
        features=Features(FRAMES, WIDTH, "float16"),
    ) as writer:
        writer.add_users(np.arange(len(length)), length, item, np.zeros(len(item)), everything)
        for video in range(1, videos + 1):
            writer.add_video(video, draw_frames(video), FRAMES)
        return writer.commit({})


def write_peer(
    path: Path, length: np.ndarray, item: np.ndarray, users: int, features: np.ndarray
) -> list[str]:
    """A tar per thousand users; a sample is a user's newest items and their features."""
    path.mkdir()
    begin = np.cumsum(length) - length
    files = []
    for first in range(0, users, 1000):
        files.append(str(path / f"users-{first // 1000:06d}.tar"))
        # A fraction of a second in the mtime would cost the peer a second header per file.
        with webdataset.TarWriter(files[-1], mtime=0) as tar:
            for user in range(first, min(first + 1000, users)):
                items = item[begin[user] : begin[user] + length[user]][-LENGTH - 1 :].astype(np.int32)
                tar.write({"__key__": f"{user:09d}", "item.npy": items, "features.npy": features[items[:-1]]})
    return files


def read_peer(files: list[str]) -> Iterator[int]:
    def collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        width = max(len(item) for item, _ in samples) - 1
        shape = (len(samples), width)
        item, target = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        features = np.zeros((*shape, FRAMES, WIDTH), np.float16)
        for row, (items, frames) in enumerate(samples):
            n = len(items) - 1
            item[row, :n], target[row, :n], features[row, :n] = items[:-1], items[1:], frames
        return {
            name: torch.from_numpy(a) for name, a in dict(item=item, target=target, features=features).items()
        }

    source = webdataset.WebDataset(files, shardshuffle=False).decode().to_tuple("item.npy", "features.npy")
    for batch in source.batched(BATCH, collation_fn=collate):
        yield len(batch["item"])


def read_ours(stream: TrainStream, epoch: int, row_per_view: torch.Tensor | None = None) -> Iterator[int]:
    for (batch,) in stream.epoch(epoch):
        if row_per_view is not None:
            item = batch["item"]
            batch["features"] = row_per_view.index_select(0, item.reshape(-1)).view(
                *item.shape, FRAMES, WIDTH
            )
        yield int(batch["weight"].sum())


def measure(read: Callable[[int], Iterator[int]], number: int) -> float:
    """Sequences per core-second of one pass."""
    begin = time.process_time()
    sequences = sum(read(number))
    return sequences / (time.process_time() - begin)


def run(users: int, videos: int, rounds: int, folder: Path, report: Report) -> None:
    length, item = draw_sequences(users, videos)
    index = write_data_set(folder / "ours", length, item, videos)
    table = FeatureTable.open(index, folder / "cache")
    peer_users = min(users, 4000)
    files = write_peer(folder / "peer", length, item, peer_users, table.features)

    def stream(batch: int, with_table: FeatureTable | None = None) -> TrainStream:
        sizes = dict(batch_size=batch, micro_batch_size=batch, rank=0, world_size=1, max_length=LENGTH)
        return TrainStream(index, **sizes, seed=0, table=with_table)

    ids, ids_large, joined = stream(BATCH), stream(1024), stream(BATCH, table)
    features = torch.from_numpy(table.features)
    ours = sum(entry.bytes for entry in (*index.sequence_shards, *index.feature_shards))
    theirs = sum(os.path.getsize(file) for file in files) * users // peer_users
    variants: dict[str, tuple[int, int, Callable[[int], Iterator[int]]]] = {
        "ids only, batch 1024": (1024, ours, lambda epoch: read_ours(ids_large, epoch)),
        "ids only": (BATCH, ours, lambda epoch: read_ours(ids, epoch)),
        "joined": (BATCH, ours, lambda epoch: read_ours(joined, epoch)),
        "joined, a row a view": (BATCH, ours, lambda epoch: read_ours(ids, epoch, features)),
        PEER: (BATCH, theirs, lambda epoch: read_peer(files)),
    }
    rates = alternate(
        {name: passes(read) for name, (_, _, read) in variants.items()}, rounds
    )  # the first pass warms the caches
    for name, (batch, size, _) in variants.items():
        spread = Spread.of(rates[name])
        report.add(
            layout=name,
            batch=batch,
            **{"sequences/core-s": spread.median, "lowest": spread.lowest, "highest": spread.highest},
            **{"is x peer": ratio(rates[name], rates[PEER]).median, "bytes": size},
        )


def passes(read: Callable[[int], Iterator[int]]) -> Callable[[], float]:
    """A function that measures the next pass."""
    numbers = itertools.count()
    return lambda: measure(read, next(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--videos", type=int, default=19_738)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "loading.csv", help="the CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(args.out)
    with tempfile.TemporaryDirectory() as folder:
        run(args.users, args.videos, args.rounds, Path(folder), report)
    report.close()


if __name__ == "__main__":
    main()
