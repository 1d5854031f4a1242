"""The fingerprint of a data set's content, whatever shards and blocks it is cut into.

[ours] sha256 over one digest a field, each field hashed as one stream in user or item order (little-endian),
so that no boundary of block or shard enters. Ids enter by their text with its length; features by item row,
frame count and bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from shards.format.records import BLOCK_FIELDS, Block

IDS_A_CHUNK = 1 << 16


class Fingerprint:
    """Feed ids, blocks and videos in order, then ask for `hexdigest()`."""

    FIELDS = ("item_ids", "user_ids", *BLOCK_FIELDS, "features")

    def __init__(self) -> None:
        self._streams = {field: hashlib.sha256() for field in self.FIELDS}

    def ids(self, field: str, values: np.ndarray | Sequence[int] | Sequence[str]) -> None:
        """Original ids, `field` = item_ids or user_ids; an integer and a string of the same text differ."""
        for start in range(0, len(values), IDS_A_CHUNK):
            chunk = values[start : start + IDS_A_CHUNK]
            chunk = chunk.tolist() if isinstance(chunk, np.ndarray) else chunk
            text = "".join(f"i{v};" if isinstance(v, int) else f"s{len(v)}:{v};" for v in chunk)
            self._streams[field].update(text.encode("utf-8", "surrogatepass"))

    def block(self, block: Block) -> None:
        for field, dtype in BLOCK_FIELDS.items():
            self._streams[field].update(_bytes(getattr(block, field), dtype))

    def video(self, item: int, count: int, frames: np.ndarray) -> None:
        """`frames` [M, V] as stored."""
        head = f"{item}:{count}:{frames.dtype.name}:{frames.shape};"
        self._streams["features"].update(head.encode())
        self._streams["features"].update(_bytes(frames, frames.dtype))

    def hexdigest(self) -> str:
        """`sha256:<hex>`."""
        parts = "".join(f"{field}={stream.hexdigest()};" for field, stream in self._streams.items())
        return "sha256:" + hashlib.sha256(parts.encode()).hexdigest()


def _bytes(values: np.ndarray, dtype: type | np.dtype) -> memoryview:
    return np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).data.cast("B")
