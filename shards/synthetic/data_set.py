"""`python -m shards synth`: writes a synthetic world (`world.py` says how it works) as a data set with its
oracle.

`oracle.json` holds, for the validation and the test target of every evaluated user under leave-one-out with
the history masked, the full-ranking metrics of the oracle, who knows the truth, and of popularity (clicks in
the training part).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.errors import DataError
from shards.format.index import MIN_EVALUATED, Features, Index
from shards.format.writer import DataSetWriter
from shards.importers.splits import leave_one_out
from shards.synthetic.generator import Clicks, make_clicks, make_frames, make_videos
from shards.synthetic.oracle import place, rank_metrics

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
    """Write the world to the directory `out` and return its index. `frames` 0 writes no features. DataError
    where the sizes make no world or `out` exists. The clicks cost about 30 ns * clicks * videos of one
    core."""
    for name, value, least in (
        ("users", users, 1),
        ("videos", videos, 20),
        ("frames", frames, 0),
        ("width", width, 1),
    ):
        if value < least:
            raise DataError(f"--{name}: found {value}, expected at least {least}")
    truth = make_videos(videos, seed)
    shape = Features(frames, width, "float16") if frames else None
    with DataSetWriter(
        out,
        name=f"synthetic-{users}x{videos}",
        item_ids=np.arange(FIRST_ITEM_ID, FIRST_ITEM_ID + videos),
        user_type="int64",
        split={"kind": "leave-one-out"},
        features=shape,
    ) as writer:
        chunks = []
        for clicks in make_clicks(truth, users, seed):
            ids = np.arange(writer.users, writer.users + len(clicks.length)) + FIRST_USER_ID
            boundary = leave_one_out(clicks.length)
            writer.add_users(ids, clicks.length, clicks.item + 1, clicks.time, boundary)
            chunks.append(clicks)
        if frames:
            features, real = make_frames(truth, frames, width, seed)
            for row in np.flatnonzero(real):
                writer.add_video(int(row) + 1, features[row], int(real[row]))
        writer.add_json("oracle", _score(chunks, writer.train_counts[1:], videos))
        accidental = sum(int(clicks.accidental.sum()) for clicks in chunks)
        return writer.commit(
            {
                "importer": "synth",
                "users": users,
                "videos": videos,
                "frames": frames,
                "width": width,
                "seed": seed,
                "accidental_clicks": accidental,
                "videos_without_features": int((real == 0).sum()) if frames else videos,
            }
        )


def _score(chunks: list[Clicks], popularity: np.ndarray, videos: int) -> dict[str, object]:
    """{"users", "valid": oracle's metrics, "test": ..., "popularity": {"valid": ..., "test": ...}}."""
    places: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for clicks in chunks:
        ends = np.cumsum(clicks.length)
        row = np.flatnonzero(clicks.length >= MIN_EVALUATED)
        for split, back in (("valid", 2), ("test", 1)):
            at = ends[row] - back
            places.setdefault(split, []).append((clicks.greater[at], clicks.equal[at]))
            scores = np.broadcast_to(popularity, (len(row), videos)).astype(float)
            history = clicks.length[row] - back
            begin = np.repeat(ends[row] - clicks.length[row], history)
            inside = np.arange(history.sum()) - np.repeat(np.cumsum(history) - history, history)
            scores[np.repeat(np.arange(len(row)), history), clicks.item[begin + inside]] = -np.inf
            places.setdefault(f"popularity {split}", []).append(place(scores, clicks.item[at]))
    metrics = {}
    for name, pairs in places.items():
        greater, equal = (np.concatenate(part) for part in zip(*pairs, strict=True))
        metrics[name] = rank_metrics(greater, equal, videos)
    floor = {split: metrics.pop(f"popularity {split}") for split in ("valid", "test")}
    return {"users": len(greater), **metrics, "popularity": floor}
