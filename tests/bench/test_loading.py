"""The loading benchmark runs, and its peer delivers what ours does."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench import loading, report
from shards import FeatureTable, TrainStream


def test_it_writes_one_row_per_layout(tmp_path):
    out = tmp_path / "loading.csv"
    command = [sys.executable, "-m", "bench.loading", "--users", "300", "--videos", "40", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = report.read(out)
    assert [row["layout"] for row in rows][-1] == "webdataset, inside" and len(rows) == 5
    assert all(float(row["sequences/core-s"]) > 0 for row in rows)


def test_ours_and_the_peer_count_the_same_sequences(tmp_path):
    length, item = loading.draw_sequences(300, 40)
    length = np.minimum(
        length, loading.LENGTH + 1
    )  # longer ones are cut in windows, the peer takes the newest
    item = item[: length.sum()]
    index = loading.write_data_set(tmp_path / "ours", length, item, 40)
    table = FeatureTable.open(index, tmp_path / "cache")
    files = loading.write_peer(tmp_path / "peer", length, item, 300, table.features)
    stream = TrainStream(
        index, batch_size=64, micro_batch_size=64, rank=0, world_size=1, max_length=13, seed=0
    )
    assert sum(loading.read_peer(files)) == sum(loading.read_ours(stream, 0)) == 300
