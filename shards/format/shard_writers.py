"""Writers of the two families of shards: blocks of users, and frame features of videos."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from shards.format.index import FeatureShard, SequenceShard
from shards.format.partial import link_or_copy
from shards.format.records import BLOCK_FIELDS, Block
from shards.format.tars import Tar, new_tar
from shards.format.totals import LengthHistogram


class SequenceShardWriter:
    """Cuts users into blocks of `block_users` and writes `shard_blocks` blocks to each tar.

    shards  the finished tars, as the index lists them
    """

    def __init__(self, root: Path, *, block_users: int, shard_blocks: int):
        self.shards: list[SequenceShard] = []
        self._root, self._block_users, self._shard_blocks = root, block_users, shard_blocks
        self._pending: list[Block] = []
        self._pending_users = 0
        self._tar: Tar | None = None
        # What the open tar holds.
        self._first_user = self._users = self._blocks = 0
        self._train_lengths = LengthHistogram()

    def add(self, block: Block) -> None:
        """The next users, any number."""
        self._pending.append(block)
        self._pending_users += len(block.user)
        if self._pending_users >= self._block_users:
            self._flush(last=False)

    def keep(self, file: Path, shard: SequenceShard) -> None:
        """The next users are those of a tar that is there already: it becomes the next tar as it is."""
        self.finish()
        target = new_tar(self._root, "sequences", len(self.shards))
        link_or_copy(file, target)
        self.shards.append(replace(shard, file=target.relative_to(self._root).as_posix()))

    def finish(self) -> None:
        """Write the users that are still pending and close the last tar."""
        self._flush(last=True)
        self.close()

    def close(self) -> None:
        """Close the open tar, if there is one."""
        if self._tar is not None:
            tar, self._tar = self._tar, None
            self.shards.append(
                SequenceShard(
                    **asdict(tar.close()),
                    users=self._users,
                    first_user=self._first_user,
                    train_lengths=self._train_lengths.pairs(),
                )
            )

    def _flush(self, last: bool) -> None:
        """Write the pending users in whole blocks; at the end also the short one."""
        if not self._pending:
            return
        pending = Block.concatenate(self._pending)
        users = len(pending.user)
        whole = users if last else users - users % self._block_users
        for start in range(0, whole, self._block_users):
            self._write(pending.rows(start, min(start + self._block_users, whole)))
        rest = pending.rows(whole, users)
        self._pending, self._pending_users = ([rest] if users > whole else []), users - whole

    def _write(self, block: Block) -> None:
        if self._tar is not None and self._blocks == self._shard_blocks:
            self.close()
        if self._tar is None:
            self._tar = Tar(self._root, "sequences", len(self.shards))
            self._first_user, self._users, self._blocks = int(block.user[0]), 0, 0
            self._train_lengths = LengthHistogram()
        number = int(block.user[0]) // self._block_users
        columns = {f"{name}.npy": np.ascontiguousarray(getattr(block, name)) for name in BLOCK_FIELDS}
        self._tar.write({"__key__": f"block-{number:08d}", **columns})
        self._users += len(block.user)
        self._blocks += 1
        self._train_lengths.add(block)


class FeatureShardWriter:
    """Writes videos to tars that each hold up to `shard_bytes` of frames.

    shards  the finished tars, as the index lists them
    """

    def __init__(self, root: Path, *, shard_bytes: int):
        self.shards: list[FeatureShard] = []
        self._root, self._shard_bytes = root, shard_bytes
        self._tar: Tar | None = None
        self._first_item = self._videos = 0  # what the open tar holds

    def add(self, item: int, frames: np.ndarray, count: int) -> None:
        """The next video: its item row, frames [M, V] and the number of real ones."""
        if self._tar is not None and self._tar.payload + frames.nbytes > self._shard_bytes:
            self.close()
        if self._tar is None:
            self._tar = Tar(self._root, "features", len(self.shards))
            self._first_item, self._videos = item, 0
        self._tar.write({"__key__": video_key(item), "frames.npy": frames, "count.cls": count})
        self._videos += 1

    def keep(self, file: Path, shard: FeatureShard) -> None:
        """The next videos are those of a tar that is there already: it becomes the next tar as it is."""
        self.close()
        target = new_tar(self._root, "features", len(self.shards))
        link_or_copy(file, target)
        self.shards.append(replace(shard, file=target.relative_to(self._root).as_posix()))

    def close(self) -> None:
        """Close the open tar, if there is one."""
        if self._tar is not None:
            tar, self._tar = self._tar, None
            self.shards.append(
                FeatureShard(**asdict(tar.close()), videos=self._videos, first_item=self._first_item)
            )


def video_key(item: int) -> str:
    """The key of a video's record."""
    return f"video-{item:08d}"
