"""Batches with few sizes: the same content, in less than a quarter more cells and rows."""

import numpy as np
import pytest
import torch

from shards import Features
from shards.stream.buckets import rounded_up
from shards.stream.feature_table import FeatureTable
from shards.stream.training import TrainStream

OPTIONS = dict(
    batch_size=24, micro_batch_size=12, rank=0, world_size=1, max_length=9, stride=3, seed=5, shuffle_window=3
)
FEATURES = Features(frames=3, width=4, dtype="float16")


def test_buckets_are_few_and_near():
    sizes = np.arange(1, 4097)
    buckets = np.array([rounded_up(int(size), 10**9) for size in sizes])
    assert (buckets >= sizes).all() and (np.diff(buckets) >= 0).all()
    assert (buckets[1:] < 1.25 * sizes[1:]).all()
    assert sorted({*buckets.tolist()})[:12] == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    assert len({*buckets[sizes > 8].tolist()}) == 4 * 9  # four each time a size doubles
    assert [rounded_up(size, 9) for size in (0, 1, 9)] == [2, 2, 9] and rounded_up(1, 1) == 1


@pytest.mark.parametrize("features", [None, FEATURES])
def test_what_is_added_takes_no_part(make_data_set, tmp_path, features):
    index, _ = make_data_set(features=features)
    table = FeatureTable.open(index, tmp_path / "cache")
    exact, few = (TrainStream(index, table=table, few_sizes=asked, **OPTIONS) for asked in (False, True))
    sizes: tuple[set, set] = set(), set()
    for steps in zip(exact.epoch(0), few.epoch(0), strict=True):
        for before, after in zip(*steps, strict=True):
            added = after["item"].shape[1] - before["item"].shape[1]
            for name in ("item", "target"):
                assert torch.equal(after[name], torch.nn.functional.pad(before[name], (0, added)))
            for name, values in (("real_index", "item"), ("target_index", "target")):
                chosen = after[name]
                assert (chosen[1:] > chosen[:-1]).all()
                wanted = after[values].flatten().nonzero()[:, 0]
                assert torch.isin(wanted, chosen).all()
                assert len(chosen) <= max(2, 1.25 * len(wanted))
            assert torch.isin(after["target_index"], after["real_index"]).all()
            if table is not None:
                distinct = len(before["frames"])
                assert torch.equal(after["features"][:distinct], before["features"])
                assert torch.equal(after["feature_row"], torch.nn.functional.pad(before["feature_row"], (0, added)))
                assert not after["features"][distinct:].any() and not after["frames"][distinct:].any()
            for found, batch in zip(sizes, (before, after), strict=True):
                found.add((batch["item"].shape[1], len(batch["real_index"]), len(batch["target_index"])))
    assert len(sizes[1]) < len(sizes[0]) / 2
