"""The data set of a measurement, and the same events as a table for peers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards import Block, Index, read_sequence_shard
from trainer.default_data import make_default_data


def data_set(path: Path | None) -> Path:
    """The data set at `path`; with none, the synthetic world that a run makes for itself."""
    return path if path is not None else make_default_data()


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
