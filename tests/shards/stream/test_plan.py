"""Properties of the plan over many world sizes, lengths and seeds: arithmetic only, no process, no file."""

import itertools

import numpy as np
import pytest

from shards.stream.plan import FILLER, Plan, cut_windows, deal, resolve_accumulation, window_count
from tests.shards.stream import reference


def _make(shard_samples, lengths, **options):
    """All global batches of an epoch, as arrays of (shard, sample) pairs, and the plan."""
    plan = Plan(shard_samples, **options)
    batches = []
    for span in range(plan.spans):
        rows = [
            (piece.shard, sample)
            for piece in plan.pieces(span)
            for sample in plan.sample_order(piece.shard)[piece.lo : piece.hi].tolist()
        ]
        span_lengths = np.array([lengths[shard][sample] for shard, sample in rows])
        batches += [np.array(rows)[chosen] for chosen in plan.batches(span, span_lengths)]
    return batches, plan


def _random_shards(rng):
    shard_samples = rng.integers(0, 60, rng.integers(1, 9)).tolist()
    return shard_samples, [rng.integers(1, 14, n) for n in shard_samples]


# ---- windows


def _cut(train_end, max_length, stride=0):
    """The windows of one part as (start, stop, first_target)."""
    _, *columns = cut_windows(np.array([train_end]), max_length, stride)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 13, 50])
def test_every_training_target_counts_once(max_length):
    for stride, train_end in itertools.product(range(max_length + 1), [*range(130), 501]):
        counted = np.zeros(train_end, dtype=int)
        cuts = _cut(train_end, max_length, stride)
        for start, stop, first_target in cuts:
            assert 0 <= start < first_target < stop <= train_end
            assert stop - 1 - start <= max_length
            counted[first_target:stop] += 1
        assert (counted[1:] == 1).all() and not counted[:1].any()
        assert bool(cuts) == (train_end >= 2)
        assert len(cuts) == window_count(np.array([train_end]), max_length, stride)[0]


def test_windows_start_full_at_the_newest_item():
    assert _cut(4, 5, 2) == [(0, 4, 1)]
    assert _cut(6, 5, 2) == [(0, 6, 1)]
    assert _cut(7, 5, 2) == [(1, 7, 5), (0, 5, 1)]
    assert _cut(12, 5, 5) == [(6, 12, 7), (1, 7, 2), (0, 2, 1)]
    assert _cut(9, 4) == _cut(9, 4, 2)  # the default is half a window


def test_older_targets_keep_context():
    """With a stride of half a window, a target sees at least half a window of inputs or all there are."""
    for start, _, first_target in _cut(400, 20, 10):
        assert start == 0 or first_target - start > 10


def test_many_parts_at_once_are_the_parts_one_by_one():
    lengths = np.random.default_rng(0).integers(0, 40, 200)
    user, start, stop, first_target = cut_windows(lengths, 7, 3)
    expected = [(u, *w) for u, n in enumerate(lengths) for w in reference.windows(int(n), 7, 3)]
    assert list(zip(user, start, stop, first_target, strict=True)) == expected


@pytest.mark.parametrize("max_length, stride", [(0, 0), (5, 6), (5, -1)])
def test_windows_refuse_what_would_lose_targets(max_length, stride):
    with pytest.raises(ValueError, match="found"):
        _cut(10, max_length, stride)


# ---- order


@pytest.mark.parametrize("seed", range(40))
def test_every_sample_once_an_epoch(seed):
    rng = np.random.default_rng(seed)
    shard_samples, lengths = _random_shards(rng)
    batch_size, window = int(rng.integers(1, 20)), int(rng.integers(1, 6))
    batches, plan = _make(shard_samples, lengths, seed=seed, epoch=3, batch_size=batch_size, window=window)
    assert len(batches) == plan.steps == -(-sum(shard_samples) // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    seen = sorted(tuple(row) for batch in batches for row in batch.tolist())
    assert seen == [(shard, i) for shard, n in enumerate(shard_samples) for i in range(n)]


def test_order_depends_on_seed_and_epoch_alone():
    shard_samples, lengths = [40, 0, 31, 57, 16], None
    lengths = [np.random.default_rng(n).integers(1, 14, n) for n in shard_samples]

    def order(seed, epoch):
        batches, _ = _make(shard_samples, lengths, seed=seed, epoch=epoch, batch_size=8, window=3)
        return [batch.tolist() for batch in batches]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_order_is_pinned():
    """Every machine and release of NumPy draws the same order."""
    plan = Plan([5, 3, 4], seed=7, epoch=1, batch_size=5, window=2)
    assert plan.shard_order.tolist() == [1, 2, 0]
    assert plan.sample_order(0).tolist() == [1, 3, 4, 0, 2]
    batches = plan.batches(0, np.array([3, 1, 2, 2, 3, 1, 1, 2, 3, 3]))
    assert [batch.tolist() for batch in batches] == [[9, 7, 5, 1, 6], [0, 8, 4, 2, 3]]


def test_a_batch_needs_only_its_span():
    """Global batch k without the spans before it: the arithmetic of a resume."""
    shard_samples = [100, 90, 80]
    lengths = [np.random.default_rng(n).integers(1, 14, n) for n in shard_samples]
    batches, plan = _make(shard_samples, lengths, seed=0, epoch=0, batch_size=7, window=4)
    span, number = plan.locate(17)
    assert (span, number) == (4, 1)
    touched = {piece.shard for piece in plan.pieces(span)}
    assert set(batches[17][:, 0]) <= touched < {0, 1, 2}
    with pytest.raises(IndexError):
        plan.locate(plan.steps)


def test_batches_hold_all_lengths_longest_first_in_tiles_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 50, 64 * 32)
    batches = Plan([len(lengths)], seed=0, epoch=0, batch_size=32, window=64).batches(0, lengths)
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)
    tiles = [part for batch in batches for part in np.split(batch, 8)]
    assert sum(len(tile) * lengths[tile].max() for tile in tiles) < 1.02 * lengths.sum()
    means = np.array([lengths[batch].mean() for batch in batches])
    assert means.std() < 1.2 * lengths.std() / np.sqrt(8)  # as of eight tiles drawn at random
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_ties_and_the_short_batch_are_drawn_again_each_epoch():
    lengths = np.repeat([1, 2, 3, 4], 10)
    short, partners = set(), set()
    for epoch in range(40):
        batches = Plan([40], seed=0, epoch=epoch, batch_size=9, window=8).batches(0, lengths)
        assert len(batches[-1]) == 4
        short.add(tuple(sorted(batches[-1].tolist())))
        partners |= {tuple(sorted(batch.tolist())) for batch in batches}
    assert len(short) > 35 and len(partners) > 150


def test_samples_of_a_long_shard_reach_every_span():
    """A shard that is longer than a span is not read from front to back."""
    plan = Plan([1000], seed=0, epoch=0, batch_size=10, window=10)
    first = plan.pieces(0)[0]
    rows = plan.sample_order(0)[first.lo : first.hi]
    assert len(rows) == 100 and rows.max() > 900 and rows.min() < 100


# ---- dealing


def test_dealing_covers_the_batch_once_at_every_world_size():
    cases = 0
    for world_size, micro, steps in itertools.product(
        [1, 2, 3, 4, 5, 8, 16, 64], [1, 2, 3, 7, 16], [1, 2, 3, 4]
    ):
        size = world_size * micro * steps
        for rows in {1, size // 3 + 1, size - 1, size} - {0}:
            shares = [
                deal(rows, rank=rank, world_size=world_size, micro_batch_size=micro, accumulation=steps)
                for rank in range(world_size)
            ]
            assert all(share.shape == (steps, micro) for share in shares)
            taken = np.concatenate(shares, axis=None)
            assert sorted(taken[taken != FILLER]) == list(range(rows))
            cases += 1
    assert cases > 500


def test_ranks_have_similar_lengths_at_the_same_time():
    """Longest first: what any rank runs as micro-batch a is at least as long as all of micro-batch a+1."""
    shares = np.stack([deal(24, rank=r, world_size=3, micro_batch_size=2, accumulation=4) for r in range(3)])
    for a in range(3):
        assert shares[:, a].max() < shares[:, a + 1].min()


def test_accumulation():
    assert resolve_accumulation(512, 64, 4) == 2
    for sizes in [(512, 100, 1), (512, 512, 2), (512, 0, 1), (0, 1, 1)]:
        with pytest.raises(ValueError, match="batch_size = micro_batch_size"):
            resolve_accumulation(*sizes)
