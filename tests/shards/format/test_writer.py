"""The writer: round trips, determinism, fingerprint, all or nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards import Block, DataError, DataSetWriter, Features, Index
from shards.format.files import file_sha256
from shards.format.reader import read_feature_shard, read_sequence_shard


def random_log(seed):
    """(ids, length, item, time, boundary, videos) of a random log."""
    rng = np.random.default_rng(seed)
    users, videos = int(rng.integers(1, 90)), int(rng.integers(1, 40))
    length = rng.integers(1, 25, users)
    item, time = rng.integers(1, videos + 1, length.sum()), rng.integers(-(2**40), 2**40, length.sum())
    boundary = np.sort(rng.integers(0, length[:, None] + 1, (users, 2)), axis=1)
    return rng.permutation(10**6)[:users], length, item, time, boundary, videos


def write(path, log, *, text=False, features=None, cut=None, **sizes):
    ids, length, item, time, boundary, videos = log
    item_ids = [f"v{j:05d}" for j in range(videos)] if text else np.arange(videos) * 3
    with DataSetWriter(
        path,
        name="random",
        item_ids=item_ids,
        user_type="string" if text else "int64",
        split={"kind": "given"},
        features=Features(3, 5, "float16") if features is not None else None,
        **sizes,
    ) as writer:
        starts = np.concatenate([[0], np.cumsum(length)])
        edges = [0, len(length)] if cut is None else sorted({0, len(length), *cut})
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            events = slice(starts[a], starts[b])
            names = [f"u{i}" for i in ids[a:b]] if text else ids[a:b]
            writer.add_users(names, length[a:b], item[events], time[events], boundary[a:b])
        for row, (frames, count) in sorted((features or {}).items()):
            writer.add_video(row, frames, count)
        return writer.commit({"importer": "test"})


def random_features(seed, videos):
    rng = np.random.default_rng(seed)
    held = {}
    for row in rng.permutation(np.arange(1, videos + 1))[: max(1, videos * 3 // 4)]:
        count = int(rng.integers(1, 4))
        frames = np.zeros((3, 5), np.float16)
        frames[:count] = rng.standard_normal((count, 5))
        held[int(row)] = (frames, count)
    return held


@pytest.mark.parametrize("seed", range(12))
def test_round_trip(tmp_path, seed):
    log = random_log(seed)
    ids, length, item, time, boundary, videos = log
    features = random_features(seed, videos)
    sizes = {
        "block_users": 1 + seed * 3,
        "shard_blocks": 1 + seed % 4,
        "feature_shard_bytes": 100 + seed * 50,
    }
    index = write(tmp_path / "d", log, text=bool(seed % 2), features=features, **sizes)
    block = Block.concatenate([read_sequence_shard(index, e) for e in index.sequence_shards])
    for name, expected in (("length", length), ("item", item), ("time", time), ("boundary", boundary)):
        np.testing.assert_array_equal(getattr(block, name), expected)
    np.testing.assert_array_equal(block.user, np.arange(len(length)))
    assert list(index.user_ids()) == ([f"u{i}" for i in ids] if seed % 2 else ids.tolist())
    assert (index.users, index.videos, index.interactions) == (len(length), videos, len(item))
    read = {
        row: (frames, count)
        for e in index.feature_shards
        for row, frames, count in read_feature_shard(index, e)
    }
    assert list(read) == sorted(features)
    for row, (frames, count) in features.items():
        assert read[row][1] == count
        np.testing.assert_array_equal(read[row][0], frames)
    assert index.features.videos_with_features == len(features)
    trained, starts = np.zeros(videos + 1, np.int64), np.cumsum(length) - length
    for start, end in zip(starts, boundary[:, 0], strict=True):
        for row in item[start : start + end]:
            trained[row] += 1
    np.testing.assert_array_equal(index.train_counts(), trained)
    histogram = {}
    for entry in index.sequence_shards:
        for train, users in entry.train_lengths:
            histogram[train] = histogram.get(train, 0) + users
    assert histogram == {int(n): int((boundary[:, 0] == n).sum()) for n in set(boundary[:, 0])}


def test_resharding_keeps_the_fingerprint(tmp_path):
    log = random_log(3)
    features = random_features(3, log[-1])
    one = write(tmp_path / "one", log, features=features)
    many = write(
        tmp_path / "many",
        log,
        features=features,
        cut=range(0, len(log[0]), 7),
        block_users=5,
        shard_blocks=2,
        feature_shard_bytes=64,
    )
    assert len(one.sequence_shards) < len(many.sequence_shards)
    assert len(one.feature_shards) < len(many.feature_shards)
    assert one.fingerprint == many.fingerprint


@pytest.mark.parametrize("change", ["item", "time", "boundary", "order", "user", "feature", "text"])
def test_every_change_of_content_changes_the_fingerprint(tmp_path, change):
    log = list(random_log(3))
    features = random_features(3, log[-1])
    before = write(tmp_path / "before", log, features=features)
    if change == "item":
        log[2] = np.where(np.arange(len(log[2])) == 4, log[2] % log[-1] + 1, log[2])
    if change == "time":
        log[3] = log[3] + (np.arange(len(log[3])) == 2)
    if change == "boundary":
        log[4] = np.zeros_like(log[4])
    if change == "order":
        log[2] = log[2][::-1]
    if change == "user":
        log[0] = log[0] + 1
    if change == "feature":
        next(iter(features.values()))[0][0, 0] += 1
    after = write(tmp_path / "after", log, features=features, text=change == "text")
    assert before.fingerprint != after.fingerprint


def test_same_content_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, random_log(5), features=random_features(5, random_log(5)[-1]), block_users=9)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_any_webdataset_reader_opens_the_shards(tmp_path):
    log = random_log(7)
    index = write(tmp_path / "d", log, features=random_features(7, log[-1]), block_users=8, shard_blocks=2)
    urls = [str(index.local(entry)) for entry in index.sequence_shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    np.testing.assert_array_equal(np.concatenate([s["item.npy"] for s in samples]), log[2])
    assert [s["__key__"] for s in samples] == [f"block-{n:08d}" for n in range(len(samples))]
    kinds = {"user": "int64", "length": "int32", "item": "int32", "time": "int64", "boundary": "int32"}
    assert {name: samples[0][f"{name}.npy"].dtype.name for name in kinds} == kinds
    urls = [str(index.local(entry)) for entry in index.feature_shards]
    video = next(iter(webdataset.WebDataset(urls, shardshuffle=False).decode()))
    assert video["frames.npy"].shape == (3, 5) and isinstance(video["count.cls"], int)


def test_the_index_lists_true_sizes_and_checksums(make_data_set):
    index, _ = make_data_set(features=Features(2, 4, "float32"))
    listed = {entry.file for entry in index.files} | {"index.json"}
    root = Path(index.path)
    assert listed == {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    for entry in index.files:
        assert (root / entry.file).stat().st_size == entry.bytes
        assert file_sha256(root / entry.file) == entry.sha256


def test_an_existing_directory_is_refused_and_kept(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        write(tmp_path / "d", random_log(1))
    assert (tmp_path / "d" / "mine").read_text() == "precious"


def test_a_failing_write_leaves_nothing(tmp_path):
    log = list(random_log(1))
    log[2] = log[2] + log[-1]
    with pytest.raises(DataError, match=r"field item: found \d+ for user \d+, expected an item row in 1\.\."):
        write(tmp_path / "d", log)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_nothing_that_opens(tmp_path):
    script = """
import os, signal, sys
import numpy as np
from shards import DataSetWriter
from shards.format import partial
last = "index.json" if sys.argv[2] == "early" else "d"
replace = os.replace
partial.os.replace = lambda source, target: (
    os.kill(os.getpid(), signal.SIGKILL) if target.name == last else replace(source, target)
)
kind = {"name": "d", "user_type": "int64", "split": {"kind": "none"}}
with DataSetWriter(sys.argv[1], item_ids=np.arange(3), **kind) as w:
    w.add_users([1], [3], [1, 2, 3], [0, 0, 0], [[3, 3]])
    w.commit({})
"""
    out = tmp_path / "d"
    for when in ("early", "late"):
        done = subprocess.run([sys.executable, "-c", script, str(out), when], cwd=os.getcwd())
        assert done.returncode == -9
        assert not out.exists()
        with pytest.raises(DataError, match="no such data set"):
            Index.load(out)
    early = next(p for p in tmp_path.iterdir() if not (p / "index.json").exists())
    with pytest.raises(DataError, match="cut off"):
        Index.load(early)


def test_what_the_writer_refuses(tmp_path):
    def writer():
        features = Features(2, 3, "float32")
        split = {"kind": "none"}
        return DataSetWriter(
            tmp_path / "d", name="d", item_ids=np.arange(9), user_type="int64", split=split, features=features
        )

    good = np.ones((2, 3), np.float32)
    with writer() as w, pytest.raises(DataError, match="length: found 0 for user 1, expected at least 1"):
        w.add_users([1, 2], [1, 0], [1], [0], [[1, 1], [0, 0]])
    with (
        writer() as w,
        pytest.raises(DataError, match=r"field item: found shape \[2\], expected shape \[3\]"),
    ):
        w.add_users([1], [3], [1, 2], [0, 0], [[3, 3]])
    with writer() as w, pytest.raises(DataError, match="boundary"):
        w.add_users([1], [3], [1, 2, 3], [0, 0, 0], [[2, 1]])
    with writer() as w, pytest.raises(DataError, match="found width 4, expected width 3"):
        w.add_video(1, np.ones((2, 4), np.float32), 2)
    with writer() as w, pytest.raises(DataError, match="found nan in frame 1, expected finite"):
        w.add_video(1, np.where([[False], [True]], np.float32("nan"), good), 2)
    with writer() as w, pytest.raises(DataError, match="zeros after the 1 real"):
        w.add_video(1, good, 1)
    with writer() as w, pytest.raises(DataError, match="expected an item row in 3..9"):
        w.add_video(2, good, 2)
        w.add_video(2, good, 2)
    with writer() as w, pytest.raises(DataError, match="no shards"):
        w.commit({})
    assert list(tmp_path.iterdir()) == []


def test_index_json_has_the_documented_fields(make_data_set):
    index, sequences = make_data_set(users=40, features=Features(2, 4, "float16"))
    raw = json.loads((Path(index.path) / "index.json").read_text())
    assert raw["schema_version"] == 1 and raw["id_type"] == {"user": "int64", "item": "int64"}
    short = sum(len(s) < 3 for s in sequences)
    evaluated = len(sequences) - short
    train = sum(len(s) - 2 * (len(s) >= 3) for s in sequences)
    expected = {
        "train_events": train,
        "valid_users": evaluated,
        "test_users": evaluated,
        "short_users": short,
    }
    assert raw["counts"] == expected
    assert raw["features"] == {"frames": 2, "width": 4, "dtype": "float16", "videos_with_features": 40}
    assert set(raw["sequence_shards"][0]) == {
        "file",
        "bytes",
        "sha256",
        "users",
        "first_user",
        "train_lengths",
    }
    assert set(raw["feature_shards"][0]) == {"file", "bytes", "sha256", "videos", "first_item"}
