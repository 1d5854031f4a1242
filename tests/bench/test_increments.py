"""How a data set is cut into days, and how the ranks of two data sets are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import increments
from shards import Block, Index, read_sequence_shard, synthesise
from shards.__main__ import main
from trainer.evaluation.ranks import Facts, Ranks


def test_days_are_equal_and_together_the_data_set(tmp_path: Path) -> None:
    index = synthesise(tmp_path / "data", users=60, videos=40, frames=2, width=4, seed=3)
    increments.write_days(index, tmp_path, days=4)
    logs = sorted((tmp_path / "logs").iterdir())
    sizes = [pq.read_metadata(log).num_rows for log in logs]
    assert len(sizes) == 5 and sum(sizes) == index.interactions
    assert abs(sizes[0] - sum(sizes[1:])) <= 1 and max(sizes[1:]) - min(sizes[1:]) <= 1
    newest = [max(pq.read_table(log)["time"].to_pylist()) for log in logs]
    assert newest == sorted(newest), "days follow each other"
    arguments = ["import", "table", *logs, *increments.COLUMNS, "--features", tmp_path / increments.FEATURES]
    assert main([str(a) for a in [*arguments, "--out", tmp_path / "again"]]) == 0
    again = Index.load(tmp_path / "again")
    old, new = (
        Block.concatenate(read_sequence_shard(i, entry) for entry in i.sequence_shards)
        for i in (index, again)
    )
    assert np.array_equal(old.length, new.length) and again.features == index.features
    ids = index.item_ids()[old.item - 1], again.item_ids()[new.item - 1]
    assert np.array_equal(*ids), "nobody's order changes"


def test_made_up_times_cut_everybody_in_proportion() -> None:
    length = np.array([100, 1, 40])
    time = increments.proportional_times(length)
    user = np.repeat(np.arange(3), length)
    for number in (0, 2):
        own = time[user == number]
        assert (np.diff(own) > 0).all() and own[0] >= 1
        half = (own <= increments.TICKS / 2).sum()
        assert abs(half - length[number] / 2) <= 1


def test_ranks_of_two_data_sets_are_compared_user_by_user() -> None:
    rng = np.random.default_rng(0)
    facts = Facts(fingerprint="", split="test", step=1, mask_history=True, sampler_steps=0)

    def kept(user: np.ndarray, above: np.ndarray) -> Ranks:
        zero = np.zeros(len(user), np.int32)
        return Ranks(
            pa.chunked_array([user]), above.astype(np.int32), zero, zero, zero.astype(np.int64), facts
        )

    user, above = np.arange(400), rng.integers(0, 12, 400)
    better, order = np.maximum(above - 1, 0), rng.permutation(400)
    found = increments.paired_difference(kept(user, better), kept(user[order], above[order]))
    gain = [np.where(place < 10, 1 / np.log2(place + 2), 0) for place in (better, above)]
    each = gain[0] - gain[1]
    half = 1.96 * each.std() / 20
    assert found.value == pytest.approx(each.mean())
    assert (found.low, found.high) == pytest.approx((each.mean() - half, each.mean() + half), rel=0.1)
