"""The feature table: the frame features of all videos, once on each host, joined to batches by index.

One `.npy` that all processes of the host map into memory (so they share its pages). Who fills it, and how it
is known to be whole, is in `feature_cache.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from shards.format.index import Index
from shards.stream.batch import Batch
from shards.stream.buckets import rounded_up
from shards.stream.feature_cache import FEATURES_FILE, FRAMES_FILE, FeatureCache

ROWS = 4096  # videos whose frames are read at once


class FeatureTable:
    """Frame features of all videos.

    features: np.memmap `[I+1, M, V]` float16 or float32, standardised as `feature_cache.standardise` says,
    row j = video j, row 0 and videos without features zero.
    frames: int64 `[I+1]`, real frames of each video; 0 for row 0 and videos without features.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # Copy on write: torch wants writable memory; the file stays as it is, its pages are shared.
        self.features: np.ndarray = np.load(folder / FEATURES_FILE, mmap_mode="c")
        self.frames: np.ndarray = np.load(folder / FRAMES_FILE)
        self._features = torch.from_numpy(self.features)
        self._frames = torch.from_numpy(self.frames)

    def __reduce__(self) -> tuple[type[FeatureTable], tuple[Path]]:
        """Another process maps the file itself (and gets a table in device memory as one on the host)."""
        return FeatureTable, (self.folder,)

    @staticmethod
    def open(
        index: Index, cache_dir: str | Path | None = None, *, verify: bool = True, session: str = ""
    ) -> FeatureTable | None:
        """The host's table for this data set, filled first where there is none yet; None without features.

        verify: compare the table with its digests; one that is damaged is filled again.
        session: processes of a host that give the same name verify once between them.

        Raises:
            DataError: a fault in the features (shard and video named), or a cache that cannot hold them.
        """
        if index.features is None:
            return None
        return FeatureTable(FeatureCache(index, index.features, cache_dir).folder(verify, session))

    def to(self, device: torch.device | str) -> FeatureTable:
        """This table with its features held in the memory of `device`, where `gather` then works."""
        table = FeatureTable(self.folder)
        table._features = table._features.to(device)
        table._frames = table._frames.to(device)
        return table

    @property
    def device(self) -> torch.device:
        """Where the features are held and gathered."""
        return self._features.device

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.features.nbytes

    def means(self) -> np.ndarray:
        """The mean of each video's real frames, float32 [I+1, V]; zero without frames."""
        means = np.zeros((len(self.frames), self.features.shape[2]), np.float32)
        for start in range(0, len(means), ROWS):
            part = slice(start, start + ROWS)
            total = self.features[part].sum(axis=1, dtype=np.float32)  # frames beyond the real ones are zero
            means[part] = total / np.maximum(self.frames[part, None], 1)
        return means

    def join(self, batch: Batch, *, few_sizes: bool = False) -> Batch:
        """`batch`, on the host, with `feature_row` [B, L], and `features` [U, M, V] and `frames` [U].

        A table in device memory leaves those two to `gather`: the batch has the videos in their place.
        few_sizes: U is rounded up by more rows of padding.
        """
        item = batch["item"]
        with_padding = torch.cat([item.new_zeros(1), item.reshape(-1)])  # row 0 is padding in every batch
        video, row = torch.unique(with_padding, return_inverse=True)
        if few_sizes:
            video = F.pad(video, (0, rounded_up(len(video), len(self.frames)) - len(video)))
        joined: Batch = {**batch, "feature_row": row[1:].view(item.shape), "video": video}
        return self.gather(joined) if self.device.type == "cpu" else joined

    def gather(self, batch: Batch) -> Batch:
        """`batch` with `features` and `frames` of its videos, all on the table's device."""
        features = self._features.index_select(0, batch["video"])
        frames = self._frames.index_select(0, batch["video"])
        gathered: Batch = {**batch, "features": features, "frames": frames}
        del gathered["video"]
        return gathered
