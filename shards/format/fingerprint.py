"""The fingerprint of a data set's content, whatever shards and blocks it is cut into.

[ours] sha256 over one digest per field. Each field is hashed from front to back in user or item order
(little-endian), so that no boundary of block or shard enters. Ids enter by their text with its length;
features by item row, frame count and bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from shards.format.records import BLOCK_FIELDS, Block

IDS_PER_CHUNK = 1 << 16


class Fingerprint:
    """Feed ids, blocks and videos in order, then ask for `hexdigest()`."""

    FIELDS = ("item_ids", "user_ids", *BLOCK_FIELDS, "features")

    def __init__(self) -> None:
        self._digests = {field: hashlib.sha256() for field in self.FIELDS}

    def ids(self, field: str, values: np.ndarray | Sequence[int] | Sequence[str]) -> None:
        """Original ids, `field` = item_ids or user_ids; an integer and a string of the same text differ."""
        for start in range(0, len(values), IDS_PER_CHUNK):
            chunk = values[start : start + IDS_PER_CHUNK]
            chunk = chunk.tolist() if isinstance(chunk, np.ndarray) else chunk
            text = "".join(f"i{v};" if isinstance(v, int) else f"s{len(v)}:{v};" for v in chunk)
            self._digests[field].update(text.encode("utf-8", "surrogatepass"))

    def block(self, block: Block) -> None:
        """The fields of the next block of users."""
        for field, dtype in BLOCK_FIELDS.items():
            self._digests[field].update(_bytes(getattr(block, field), dtype))

    def video(self, item: int, count: int, frames: np.ndarray) -> None:
        """The next video's features: `frames` [M, V] as stored, `count` of them real."""
        head = f"{item}:{count}:{frames.dtype.name}:{frames.shape};"
        self._digests["features"].update(head.encode())
        self._digests["features"].update(_bytes(frames, frames.dtype))

    def hexdigest(self) -> str:
        """`sha256:<hex>`."""
        parts = "".join(f"{field}={digest.hexdigest()};" for field, digest in self._digests.items())
        return "sha256:" + hashlib.sha256(parts.encode()).hexdigest()


def _bytes(values: np.ndarray, dtype: type | np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).data.cast("B")
