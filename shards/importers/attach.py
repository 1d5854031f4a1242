"""Gives the videos of a data set other features: a new data set of the same users, events and splits."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tqdm import tqdm

from shards.errors import DataError
from shards.format.index import Index
from shards.format.reader import read_sequence_shard
from shards.format.writer import DataSetWriter, refuse_existing
from shards.importers.features import open_features


def attach(data: str, out: Path, *, features: Path, ids: str | None, frames: int) -> Index:
    """Write the data set at `data` to `out` with the features at `features`, and return its index.

    Features that it has already are left out. The rest is as `open_features` says.

    Raises:
        DataError: at the first fault; nothing is left behind.
    """
    refuse_existing(out)
    index = Index.load(data)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.attach-", dir=out.absolute().parent)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from None
    with scratch as folder:
        source = open_features(features, index.item_ids(), ids=ids, frames=frames, scratch=Path(folder))
        with DataSetWriter(
            out,
            name=index.name,
            item_ids=index.item_ids(),
            user_type=index.user_id_type,
            split=index.split,
            features=source.shape,
        ) as writer:
            users = index.user_ids()
            for entry in index.sequence_shards:
                block = read_sequence_shard(index, entry)
                block_users = users[entry.first_user : entry.first_user + entry.users]
                writer.add_users(block_users, block.length, block.item, block.time, block.boundary)
            with tqdm(total=len(source.rows), unit=" videos", desc="features", disable=None) as bar:
                for row, real, count in source.videos():
                    writer.add_video(row, real, count)
                    bar.update(1)
            drops = {**index.source.get("drops", {}), **source.counts}
            return writer.commit({**index.source, "features": features.name, "drops": drops})
