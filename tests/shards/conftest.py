"""Small data sets for the tests of this folder."""

from collections.abc import Callable

import numpy as np
import pytest

from shards import DataSetWriter, Features, Index, retry


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(retry, "SECONDS", 0.01)


@pytest.fixture
def make_data_set(tmp_path) -> Callable[..., tuple[Index, list[np.ndarray]]]:
    """Write a random data set into `tmp_path`/`name`; returns its index and the raw sequences.

    Lengths are drawn from 1 to `longest`; every fifth video is without features.
    """

    def make(
        users: int = 300,
        videos: int = 50,
        *,
        longest: int = 30,
        features: Features | None = None,
        seed: int = 0,
        name: str = "data",
        block_users: int = 16,
        shard_blocks: int = 3,
        split: str = "leave-one-out",
    ) -> tuple[Index, list[np.ndarray]]:
        rng = np.random.default_rng(seed)
        length = rng.integers(1, longest + 1, users)
        sequences = [rng.integers(1, videos + 1, n) for n in length]
        kept = np.where((length < 3) | (split == "none"), 0, 1)
        boundary = np.stack([length - 2 * kept, length - kept], axis=1)
        with DataSetWriter(
            tmp_path / name,
            name=name,
            item_ids=np.arange(videos) + 1000,
            user_type="int64",
            split={"kind": split},
            features=features,
            block_users=block_users,
            shard_blocks=shard_blocks,
            feature_shard_bytes=4096,
        ) as writer:
            writer.add_users(
                np.arange(users), length, np.concatenate(sequences), np.zeros(length.sum()), boundary
            )
            for item in range(1, videos + 1):
                if features is not None and item % 5:
                    writer.add_video(item, *_video(item, features))
            return writer.commit({}), sequences

    return make


@pytest.fixture
def video_of() -> Callable[[int, Features], tuple[np.ndarray, int]]:
    """The frames and the frame count that these data sets hold for a video: `video_of(item, features)`."""
    return _video


def _video(item: int, features: Features) -> tuple[np.ndarray, int]:
    count = 1 + item % features.frames
    frames = np.random.default_rng(item).standard_normal((features.frames, features.width))
    frames[count:] = 0
    return frames.astype(features.dtype), count
