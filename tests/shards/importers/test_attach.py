"""`attach` keeps everything of a data set but its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards import Features, Index
from shards.__main__ import main
from shards.format.check import check_data_set
from shards.format.reader import read_feature_shard, read_sequence_shard
from shards.format.records import BLOCK_FIELDS, Block


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Features of every third video, 1 or 3 frames of width 6."""
    path = tmp_path / "features"
    path.mkdir()
    for item in range(1000, 1050, 3):
        np.save(path / f"{item}.npy", np.full((1 + item % 2 * 2, 6), item, np.float32))
    return path


def sequences(index: Index) -> Block:
    return Block.concatenate(read_sequence_shard(index, entry) for entry in index.sequence_shards)


@pytest.mark.parametrize("before", [None, Features(2, 4, "float16")])
def test_features_are_new_and_the_rest_is_kept(tmp_path, make_data_set, folder, before) -> None:
    old, _ = make_data_set(features=before)
    arguments = ["attach", old.path, "--features", folder, "--out", tmp_path / "new"]
    assert main([str(argument) for argument in arguments]) == 0
    new = Index.load(tmp_path / "new")
    for field in BLOCK_FIELDS:
        np.testing.assert_array_equal(getattr(sequences(new), field), getattr(sequences(old), field))
    np.testing.assert_array_equal(new.item_ids(), old.item_ids())
    np.testing.assert_array_equal(new.user_ids(), old.user_ids())
    np.testing.assert_array_equal(new.train_counts(), old.train_counts())
    assert (new.name, new.split, new.counts) == (old.name, old.split, old.counts)
    assert (new.frames, new.width) == (3, 6) and new.fingerprint != old.fingerprint
    videos = {
        int(new.item_ids()[row - 1]): frames[:count]
        for entry in new.feature_shards
        for row, frames, count in read_feature_shard(new, entry)
    }
    assert sorted(videos) == list(range(1000, 1050, 3))
    for item, frames in videos.items():
        np.testing.assert_array_equal(frames, np.load(folder / f"{item}.npy"))
    assert new.source["drops"]["videos_missing_in_features"] == 50 - len(videos)
    assert not list(check_data_set(new.path))


def test_the_same_as_an_import_with_features(tmp_path, folder) -> None:
    """Importing with features, and importing without and attaching them, have one fingerprint."""
    log = tmp_path / "log.csv"
    log.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"{i % 7},{1000 + i % 50},{i}\n" for i in range(300))
    )
    for command in (
        ["import", "table", log, "--features", folder, "--out", tmp_path / "at-once"],
        ["import", "table", log, "--out", tmp_path / "ids"],
        ["attach", tmp_path / "ids", "--features", folder, "--out", tmp_path / "later"],
    ):
        assert main([str(argument) for argument in command]) == 0
    assert Index.load(tmp_path / "later").fingerprint == Index.load(tmp_path / "at-once").fingerprint


def test_faults_leave_nothing(tmp_path, make_data_set, folder, capsys) -> None:
    old, _ = make_data_set()
    for data, features, out, part in (
        (tmp_path / "none", folder, tmp_path / "new", "no such data set directory"),
        (old.path, tmp_path / "none", tmp_path / "new", "no such file or folder of features"),
        (old.path, folder, old.path, "exists already"),
    ):
        arguments = ["attach", data, "--features", features, "--out", out]
        assert main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert part in line
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]
