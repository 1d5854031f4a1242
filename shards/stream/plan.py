"""Which samples make up which global batch: pure arithmetic, no files, no torch.

Terms
  part      the training part of a user's sequence, `train_end` items, oldest first
  window    a cut `[start, stop)` of the part: inputs are items `[start, stop-1)`, targets `[start+1, stop)`
  sample    one window of one user; its length is its number of inputs, `stop - 1 - start`
  order     all samples of the data set: shards in an order drawn for the epoch, samples of a shard likewise
  span      a stretch of `window * batch_size` samples of the order: what is in memory at a time
  batch     a global batch; all ranks together consume one per step
  tile      samples of similar length, an eighth of a batch. A batch is made of tiles drawn from the whole
            span: micro-batches then need little padding, and yet each batch holds all lengths. In a batch of
            one length, a target would weigh more the shorter its sequence is, which costs accuracy.

The content of global batch k depends on (seed, epoch, k), the batch size, the span's size and the data. The
number of ranks, the micro-batch and the workers only decide which rank takes which rows of it (`deal`).

Random orders come from the raw words of NumPy's Philox, which stay the same for good, and not from
`Generator` methods, which may change between NumPy releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What a draw is for: part of its key, so that no two draws share random words.
_SHARD_ORDER, _SAMPLE_ORDER, _LENGTH_TIES, _TILE_ORDER = range(4)
_TIE_BITS = 40  # random bits below the length in a sort key; leaves 24 bits for the length
FILLER = -1  # row number of an empty row
TILES = 8  # tiles per batch


def resolve_stride(max_length: int, stride: int) -> int:
    """The stride in targets: 0 stands for half a window. ValueError unless 1 <= stride <= max_length."""
    if not 1 <= max_length < 1 << (64 - _TIE_BITS):
        raise ValueError(f"max_length: found {max_length}, expected 1 to {(1 << (64 - _TIE_BITS)) - 1}")
    if not 0 <= stride <= max_length:
        raise ValueError(f"stride: found {stride}, expected 0 (half of max_length) to {max_length}")
    return stride or max(1, max_length // 2)


def window_count(train_end: np.ndarray, max_length: int, stride: int) -> np.ndarray:
    """Number of windows of parts of `train_end` items, elementwise; none for parts of fewer than 2 items."""
    train_end = np.asarray(train_end, dtype=np.int64)
    older = np.maximum(train_end - 1 - max_length, 0)  # inputs that do not fit into the newest window
    return np.where(train_end < 2, 0, 1 + -(-older // resolve_stride(max_length, stride)))


def cut_windows(train_end: np.ndarray, max_length: int, stride: int) -> tuple[np.ndarray, ...]:
    """Windows of many parts at once: (user, start, stop, first_target), int64 `[samples]` each.

    `user` is the position in `train_end`; a user's windows follow each other from the newest to the oldest.
    Windows are anchored at the newest item and step back by `stride` targets. With strides below `max_length`
    they overlap; a target then counts where it has the most context: in each window the newest `stride`
    targets, in the oldest window all that remain. Targets from `first_target` (an index into the part) on
    count, those before do not.
    """
    train_end = np.asarray(train_end, dtype=np.int64)
    stride = resolve_stride(max_length, stride)
    count = window_count(train_end, max_length, stride)
    user = np.repeat(np.arange(len(train_end)), count)
    back = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)  # 0 = newest
    stop = train_end[user] - back * stride
    start = np.maximum(stop - 1 - max_length, 0)
    first_target = np.where(back == count[user] - 1, 1, stop - stride)
    return user, start, stop, first_target


@dataclass(frozen=True)
class Piece:
    """Samples `[lo, hi)` of a shard, counted in the shard's order of the epoch (`Plan.sample_order`)."""

    shard: int
    lo: int
    hi: int


class Plan:
    """The order of one epoch.

    shard_samples: number of samples of each shard; window: span size in global batches.
    """

    def __init__(
        self, shard_samples: Sequence[int], *, seed: int, epoch: int, batch_size: int, window: int = 64
    ):
        for name, value, least in (
            ("seed", seed, 0),
            ("epoch", epoch, 0),
            ("batch_size", batch_size, 1),
            ("window", window, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: found {value}, expected at least {least}")
        self.shard_samples = np.asarray(shard_samples, dtype=np.int64)
        self.seed, self.epoch, self.batch_size, self.window = seed, epoch, batch_size, window
        self.samples = int(self.shard_samples.sum())
        self.steps = -(-self.samples // batch_size)
        self.spans = -(-self.samples // (window * batch_size))
        self.shard_order = _order(self._words(len(self.shard_samples), _SHARD_ORDER))
        self._ends = np.cumsum(self.shard_samples[self.shard_order])  # where each shard ends in the order

    def locate(self, step: int) -> tuple[int, int]:
        """Global batch `step` is number `i` of `batches(span, ...)`: (span, i)."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step: found {step}, expected 0 to {self.steps - 1}")
        return divmod(step, self.window)

    def pieces(self, span: int) -> list[Piece]:
        """What the span holds, in the order of the epoch."""
        begin = span * self.window * self.batch_size
        end = min(begin + self.window * self.batch_size, self.samples)
        pieces = []
        for at in range(int(np.searchsorted(self._ends, begin, side="right")), len(self._ends)):
            shard = int(self.shard_order[at])
            first = int(self._ends[at] - self.shard_samples[shard])
            if first >= end:
                break
            lo, hi = max(begin - first, 0), min(end - first, int(self.shard_samples[shard]))
            if hi > lo:
                pieces.append(Piece(shard, lo, hi))
        return pieces

    def sample_order(self, shard: int) -> np.ndarray:
        """int64 `[samples of the shard]`: the shard's samples in the order of this epoch."""
        return _order(self._words(int(self.shard_samples[shard]), _SAMPLE_ORDER, shard))

    def batches(self, span: int, lengths: np.ndarray) -> list[np.ndarray]:
        """The global batches of a span, in the order in which they are consumed.

        lengths: int `[n]`, of the span's samples in the order of `pieces`.
        Returns int64 arrays of positions in the span, longest sample first: `batch_size` each, but for the
        epoch's last one. Which of equally long samples come together is drawn.
        """
        n, tile = len(lengths), max(1, self.batch_size // TILES)
        ties = self._words(n, _LENGTH_TIES, span) >> np.uint64(64 - _TIE_BITS)
        key = (np.asarray(lengths).astype(np.uint64) << np.uint64(_TIE_BITS)) | ties
        by_length = np.argsort(key, kind="stable")[::-1]
        tiles = np.split(np.arange(n), range(tile, n, tile))  # of positions in by_length
        order = _order(self._words(len(tiles), _TILE_ORDER, span))
        positions = np.concatenate([tiles[i] for i in order])
        return [
            by_length[np.sort(part)]
            for part in np.split(positions, range(self.batch_size, n, self.batch_size))
        ]

    def _words(self, n: int, purpose: int, index: int = 0) -> np.ndarray:
        """uint64 `[n]` that depend on (seed, epoch, purpose, index) alone."""
        key = np.random.SeedSequence([self.seed, self.epoch, purpose, index])
        return np.random.Philox(key).random_raw(n)


def _order(words: np.ndarray) -> np.ndarray:
    return np.argsort(words, kind="stable")


def resolve_accumulation(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Micro-batches that a rank runs per step. ValueError where the sizes do not give a whole number."""
    if min(batch_size, micro_batch_size, world_size) < 1 or batch_size % (micro_batch_size * world_size):
        raise ValueError(
            "batch_size = micro_batch_size * world_size * accumulation does not hold: "
            f"found batch_size {batch_size}, micro_batch_size {micro_batch_size}, world_size {world_size}, "
            "expected a whole accumulation of at least 1"
        )
    return batch_size // (micro_batch_size * world_size)


def deal(rows: int, *, rank: int, world_size: int, micro_batch_size: int, accumulation: int) -> np.ndarray:
    """A rank's share of a global batch of `rows` rows: int64 `[accumulation, micro_batch_size]`.

    The shape is the same on all ranks; FILLER marks an empty row. Rows come longest first and are
    dealt in this order, to all ranks before the next micro-batch: what runs at the same time is of similar
    length, so no rank waits long for another, and a micro-batch needs little padding.
    """
    first = (np.arange(accumulation) * world_size + rank) * micro_batch_size
    share = first[:, None] + np.arange(micro_batch_size)
    return np.where(share < rows, share, FILLER)


def check_rank(rank: int, world_size: int) -> None:
    """Raise ValueError unless `rank` is one of `world_size` ranks."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: found {rank}, expected 0 to {world_size - 1}")


def pick(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`values[rows]`, FILLER where `rows` has it."""
    return np.where(rows == FILLER, FILLER, values[np.maximum(rows, 0)])
