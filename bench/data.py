"""The data set of a measurement, and its parts as files for other programs and for `shards import`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards import Block, Index, read_feature_shard, read_sequence_shard
from trainer.default_data import make_default_data


def data_set(path: Path | None) -> Path:
    """The data set at `path`; with none, the synthetic world that a run makes for itself.

    Raises:
        DataError: there is none at `path`, or its index is broken.
    """
    if path is None:
        return make_default_data()
    Index.load(path)
    return path


def write_events(index: Index, folder: Path) -> Path:
    """The events as `folder/events/events.inter`, tab-separated, in the form that RecBole reads.

    Its columns are user, item, the place in the user's sequence as the time, and the part: 0 training,
    1 validation, 2 test.
    """
    block = Block.concatenate(read_sequence_shard(index, shard) for shard in index.sequence_shards)
    place = np.arange(len(block.item)) - np.repeat(block.starts[:-1], block.length)
    train_end, valid_end = (np.repeat(end, block.length) for end in block.boundary.T)
    part = (place >= train_end).astype(np.int64) + (place >= valid_end)
    columns = np.stack([np.repeat(block.user, block.length), block.item, place, part], axis=1)
    path = folder / "events" / "events.inter"
    path.parent.mkdir(parents=True)
    head = "user_id:token\titem_id:token\ttimestamp:float\tpart:float"
    np.savetxt(path, columns, "%d", "\t", header=head, comments="")
    return path


def write_features(index: Index, path: Path) -> None:
    """The features of all videos as an `.npz` that `shards import --features` reads."""
    videos = [video for entry in index.feature_shards for video in read_feature_shard(index, entry)]
    np.savez(
        path,
        item_id=np.asarray(index.item_ids())[[row - 1 for row, _, _ in videos]],
        features=np.stack([frames for _, frames, _ in videos]),
        length=np.array([count for *_, count in videos]),
    )
