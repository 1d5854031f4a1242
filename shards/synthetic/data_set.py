"""`python -m shards synth`: writes a synthetic world as a data set with its oracle.

`oracle.json` holds, for the validation and the test target of every evaluated user under leave-one-out with
the history masked, the full-ranking metrics of the oracle, who knows the truth, and of popularity (clicks in
the training part).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DataError
from shards.format.index import Features, Index
from shards.format.splits import MIN_EVALUATED, leave_one_out
from shards.format.writer import DataSetWriter
from shards.synthetic.generator import Clicks, make_clicks, make_frames, make_videos
from shards.synthetic.oracle import count_greater_equal, ranking_metrics

USERS, VIDEOS, FRAMES, WIDTH, SEED = 6000, 1200, 8, 32, 0
"""The default world."""
FIRST_USER_ID, FIRST_ITEM_ID = 1, 100_001


def synthesise(
    out: str | Path,
    users: int = USERS,
    videos: int = VIDEOS,
    frames: int = FRAMES,
    width: int = WIDTH,
    seed: int = SEED,
) -> Index:
    """Write a synthetic world to the directory `out` and return its index. `frames` 0 writes no features.

    The clicks cost about 30 ns * clicks * videos of one core.

    Raises:
        DataError: a size is too small, or `out` exists.
    """
    for name, value, least in (
        ("users", users, 1),
        ("videos", videos, 20),
        ("frames", frames, 0),
        ("width", width, 1),
    ):
        if value < least:
            raise DataError(f"--{name}: found {value}, expected at least {least}")
    truth = make_videos(videos, seed)
    with DataSetWriter(
        out,
        name=f"synthetic-{users}x{videos}",
        item_ids=np.arange(FIRST_ITEM_ID, FIRST_ITEM_ID + videos),
        user_type="int64",
        split={"kind": "leave-one-out"},
        features=Features(frames, width, "float16") if frames else None,
    ) as writer:
        chunks = []
        for clicks in make_clicks(truth, users, seed):
            ids = np.arange(writer.totals.users, writer.totals.users + len(clicks.length)) + FIRST_USER_ID
            boundary = leave_one_out(clicks.length)
            writer.add_users(ids, clicks.length, clicks.item + 1, clicks.time, boundary)
            chunks.append(clicks)
        videos_without_features = videos
        if frames:
            features, real = make_frames(truth, frames, width, seed)
            for row in np.flatnonzero(real):
                writer.add_video(int(row) + 1, features[row], int(real[row]))
            videos_without_features = int((real == 0).sum())
        writer.add_json("oracle", _score(chunks, writer.totals.train_counts[1:], videos))
        return writer.commit(
            {
                "importer": "synth",
                "users": users,
                "videos": videos,
                "frames": frames,
                "width": width,
                "seed": seed,
                "accidental_clicks": sum(int(clicks.accidental.sum()) for clicks in chunks),
                "videos_without_features": videos_without_features,
            }
        )


def read_oracle(index: Index) -> dict[str, Any]:
    """What `oracle.json` of a synthetic data set says. Raises DataError where the data set has none."""
    if index.oracle_file is None:
        raise DataError(f"{index.path}: not a synthetic data set, it has no oracle")
    scores: dict[str, Any] = json.loads(index.local(index.oracle_file).read_text())
    return scores


def _score(chunks: list[Clicks], popularity: np.ndarray, videos: int) -> dict[str, Any]:
    """{"users", "valid": oracle's metrics, "test": ..., "popularity": {"valid": ..., "test": ...}}."""
    oracle, floor = {}, {}
    for split, back in (("valid", 2), ("test", 1)):
        known, popular = [], []
        for clicks in chunks:
            ends = np.cumsum(clicks.length)
            row = np.flatnonzero(clicks.length >= MIN_EVALUATED)
            target = ends[row] - back
            known.append((clicks.greater[target], clicks.equal[target]))
            scores = np.broadcast_to(popularity, (len(row), videos)).astype(float)
            history = clicks.length[row] - back
            begin = np.repeat(ends[row] - clicks.length[row], history)
            inside = np.arange(history.sum()) - np.repeat(np.cumsum(history) - history, history)
            scores[np.repeat(np.arange(len(row)), history), clicks.item[begin + inside]] = -np.inf
            popular.append(count_greater_equal(scores, clicks.item[target]))
        oracle[split], floor[split] = (_metrics(pairs, videos) for pairs in (known, popular))
    users = sum(int((clicks.length >= MIN_EVALUATED).sum()) for clicks in chunks)
    return {"users": users, **oracle, "popularity": floor}


def _metrics(pairs: list[tuple[np.ndarray, np.ndarray]], videos: int) -> dict[str, float]:
    greater, equal = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return ranking_metrics(greater, equal, videos)
