"""How a data set is cut into days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench import increments
from shards import Block, Index, read_sequence_shard, synthesise
from shards.__main__ import main


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
