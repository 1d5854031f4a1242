"""The host's feature table: filled once, whole or not at all, joined by index."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import DataError, Features, Index
from shards.format import files
from shards.format.files import file_sha256
from shards.stream import feature_cache
from shards.stream.evaluation import EvalStream
from shards.stream.feature_table import FeatureTable
from shards.stream.training import TrainStream
from tests.shards.format.tamper import rewrite_index, rewrite_shard

ROOT = Path(__file__).parents[3]
SHAPE = Features(frames=3, width=4, dtype="float16")


def standardised(index, video_of, shape):
    """The table that these data sets should have, [I+1, M, V], by the textbook's mean and deviation."""
    videos = index.videos
    table = np.zeros((videos + 1, shape.frames, shape.width))
    frames = np.zeros(videos + 1, int)
    for item in range(1, videos + 1):
        if item % 5:
            table[item], frames[item] = video_of(item, shape)
    watched = index.train_counts() > 0
    seen = np.concatenate([table[item, : frames[item]] for item in range(videos + 1) if watched[item]])
    for item in range(videos + 1):
        real = slice(0, frames[item])
        table[item, real] = (table[item, real] - seen.mean(axis=0)) / seen.std(axis=0)
    return table


def _fill_elsewhere(path, cache, before=""):
    """A process that opens the table."""
    code = (
        f"import sys; from shards import FeatureTable, Index\n{before}\n"
        "FeatureTable.open(Index.load(sys.argv[1]), sys.argv[2])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(cache)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_table_holds_every_video(make_data_set, video_of, tmp_path, capsys, dtype):
    shape = Features(3, 4, dtype)
    index, _ = make_data_set(features=shape)
    assert len(index.feature_shards) > 1
    table = FeatureTable.open(index, tmp_path / "cache")
    assert table.features.shape == (51, 3, 4) and table.features.dtype == np.dtype(dtype)
    assert table.frames.shape == (51,) and table.frames.dtype == np.int64
    expected = standardised(index, video_of, shape)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    for item in range(51):
        assert np.allclose(table.features[item], expected[item], atol=tolerance)
        assert table.frames[item] == (video_of(item, shape)[1] if item % 5 else 0)
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and output.startswith("filling the feature table of data: 0 MB in ")
    FeatureTable.open(index, tmp_path / "cache")
    assert capsys.readouterr().err == ""


def test_features_are_standardised_over_the_frames_of_watched_videos():
    rng = np.random.default_rng(0)
    table = rng.normal([100.0, -1e4, 3.0], [2.0, 0.1, 0.0], size=(5000, 2, 3)).astype(np.float32)
    frames, watched = rng.integers(0, 3, 5000), rng.random(5000) < 0.7
    table[np.arange(2) >= frames[:, None]] = 0
    table[~watched] += 7 * (table[~watched] != 0)
    feature_cache.standardise(table, frames, watched)
    real = np.arange(2) < frames[:, None]
    seen, others = table[real & watched[:, None]], table[real & ~watched[:, None]]
    assert np.allclose(seen.mean(axis=0), 0, atol=1e-2) and np.allclose(seen.std(axis=0)[:2], 1, atol=1e-2)
    assert others[:, 0].mean() == pytest.approx(7 / 2, abs=0.1)
    assert not table[..., 2].any()  # constant: it tells nothing, also of videos that nobody watched
    assert not table[~real].any()


def test_no_features_no_table(make_data_set, tmp_path):
    index, _ = make_data_set()
    assert FeatureTable.open(index, tmp_path / "cache") is None


def test_join(make_data_set, tmp_path):
    index, _ = make_data_set(features=SHAPE)
    table = FeatureTable.open(index, tmp_path / "cache")
    train = TrainStream(
        index, batch_size=16, micro_batch_size=8, rank=0, world_size=2, max_length=5, seed=0, table=table
    )
    evals = EvalStream(index, "test", batch_size=8, rank=1, world_size=2, max_length=5, table=table)
    for batch in [*(batch for step in train.epoch(0) for batch in step), *evals]:
        distinct = sorted({0, *batch["item"].flatten().tolist()})
        assert batch["features"].shape == (len(distinct), 3, 4) and batch["features"].dtype == torch.float16
        assert batch["frames"].tolist() == table.frames[distinct].tolist()
        assert batch["feature_row"].shape == batch["item"].shape
        assert np.array_equal(np.array(distinct)[batch["feature_row"]], batch["item"])
        assert np.array_equal(batch["features"][batch["feature_row"]], table.features[batch["item"]])
        assert not batch["features"][0].any() and batch["frames"][0] == 0
        assert (batch["feature_row"] == 0).equal(batch["item"] == 0)


def test_join_without_padding_keeps_row_0(make_data_set, tmp_path):
    index, _ = make_data_set(features=SHAPE)
    joined = FeatureTable.open(index, tmp_path / "cache").join({"item": torch.tensor([[7, 3], [3, 9]])})
    assert joined["feature_row"].tolist() == [[2, 1], [1, 3]]
    assert joined["frames"].tolist()[0] == 0 and len(joined["features"]) == 4


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_device_memory(make_data_set, tmp_path, device):
    """A batch gets its videos on the host, and their features where the table is."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    index, _ = make_data_set(features=SHAPE)
    table = FeatureTable.open(index, tmp_path / "cache")
    batch = {"item": torch.tensor([[7, 3, 0], [3, 9, 1]])}
    expected, resident = table.join(batch), table.to(device)
    joined = resident.join(batch)
    assert joined["video"].tolist() == [0, 1, 3, 7, 9] and "features" not in joined
    assert torch.equal(joined["feature_row"], expected["feature_row"])
    gathered = resident.gather({name: tensor.to(device) for name, tensor in joined.items()})
    assert gathered.keys() == expected.keys()
    for name, tensor in gathered.items():
        assert tensor.device.type == device and tensor.shape == expected[name].shape
        assert device == "meta" or torch.equal(tensor.cpu(), expected[name])


def test_two_tables_share_the_file_and_none_can_change_it(make_data_set, tmp_path):
    index, _ = make_data_set(features=SHAPE)
    table = FeatureTable.open(index, tmp_path / "cache")
    other = pickle.loads(pickle.dumps(table))
    assert isinstance(other.features, np.memmap) and other.folder == table.folder
    table.features[1] = 9
    assert not (other.features[1] == 9).any() and not (FeatureTable(table.folder).features[1] == 9).any()


def test_several_processes_fill_once(make_data_set, tmp_path):
    """The first fills, slowly; the others wait, logging so once, and use what it filled."""
    index, _ = make_data_set(features=SHAPE)
    slow = (
        "import time, shards.stream.feature_cache as c; read = c.read_feature_shard\n"
        "c.read_feature_shard = lambda *a: (time.sleep(0.15), read(*a))[1]"
    )
    cache = tmp_path / "cache"
    processes = [_fill_elsewhere(index.path, cache, slow) for _ in range(2)]
    output = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(output).count("filling the feature table") == 1
    assert all(text.count("\n") <= 1 for text in output)
    assert {path.name for path in (cache / "features").iterdir() if path.is_dir()} == {
        FeatureTable.open(index, cache).folder.name
    }


def test_a_killed_fill_leaves_nothing_that_is_used(make_data_set, video_of, tmp_path, capsys):
    index, _ = make_data_set(features=SHAPE)
    cache = tmp_path / "cache"
    process = _fill_elsewhere(
        index.path,
        cache,
        "import time, shards.stream.feature_cache as c; c.read_feature_shard = lambda *a: time.sleep(60)",
    )
    deadline = time.monotonic() + 30
    while not list(cache.glob("features/*.partial-*/features.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("features/*.partial-*"))
    table = FeatureTable.open(index, cache)
    assert np.allclose(table.features[1], standardised(index, video_of, SHAPE)[1], atol=2e-3)
    assert not list(cache.glob("features/*.partial-*"))
    assert "filling" in capsys.readouterr().err


def test_the_table_belongs_to_the_content_of_the_shards_not_to_what_the_index_claims(make_data_set, tmp_path):
    one, _ = make_data_set(features=SHAPE, name="one")
    two, _ = make_data_set(features=SHAPE, name="two", videos=49)
    three, _ = make_data_set(features=SHAPE, name="three")
    four, _ = make_data_set(features=SHAPE, name="four", users=3)  # fewer videos have been watched
    rewrite_index(two.path, lambda raw: raw.update(fingerprint=one.fingerprint))
    tables = [
        FeatureTable.open(Index.load(index.path), tmp_path / "cache") for index in (one, two, three, four)
    ]
    assert len({table.folder for table in tables}) == 3 and tables[0].folder == tables[2].folder
    assert len(tables[1].features) == 50

    def change(samples):
        samples[0]["frames.npy"][0] += 1

    rewrite_shard(two.path, "features", 0, change)
    changed = FeatureTable.open(Index.load(two.path), tmp_path / "cache")
    assert not np.array_equal(changed.features[1], tables[1].features[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number_names_shard_and_video(make_data_set, video_of, tmp_path, value):
    index, _ = make_data_set(features=SHAPE)
    good, bad = video_of(6, SHAPE)[0], video_of(6, SHAPE)[0]
    bad[0, 2] = value
    shard = [shard for shard in index.feature_shards if shard.first_item <= 6][-1]
    path = Path(index.path) / shard.file
    data = path.read_bytes()
    assert data.count(good.tobytes()) == 1
    path.write_bytes(data.replace(good.tobytes(), bad.tobytes()))
    raw = json.loads((Path(index.path) / "index.json").read_text())
    for entry in raw["feature_shards"]:  # a data set that somebody else wrote: its checksums are right
        entry["sha256"] = file_sha256(Path(index.path) / entry["file"])
    (Path(index.path) / "index.json").write_text(json.dumps(raw))
    with pytest.raises(
        DataError, match=rf"{path.name}: record video-00000006, field frames: found -?(nan|inf)"
    ):
        FeatureTable.open(Index.load(index.path), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "features").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["features.npy", "frames.npy", "digests.json"])
def test_a_damaged_table_is_filled_again(make_data_set, tmp_path, capsys, name):
    index, _ = make_data_set(features=SHAPE)
    sound = FeatureTable.open(index, tmp_path / "cache")
    features, frames = sound.features.copy(), sound.frames.copy()
    content = (sound.folder / name).read_bytes()
    damages = {
        "cut": content[:-5],
        "bit": content[:-1] + bytes([content[-1] ^ 64]),
        "other": b"\x93NUMPY" + content[6:][::-1],
    }
    for damage in damages.values():
        (sound.folder / name).write_bytes(damage)
        capsys.readouterr()
        table = FeatureTable.open(index, tmp_path / "cache")
        assert np.array_equal(table.features, features) and np.array_equal(table.frames, frames)
        assert f"{sound.folder}: damaged ({name}" in capsys.readouterr().err


def test_a_session_verifies_once(make_data_set, tmp_path, monkeypatch):
    index, _ = make_data_set(features=SHAPE)
    FeatureTable.open(index, tmp_path / "cache")
    hashed = []
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    for session, expected in (("a", 2), ("a", 2), ("b", 4), ("", 6), ("", 8)):
        FeatureTable.open(index, tmp_path / "cache", session=session)
        assert len(hashed) == expected
    FeatureTable.open(index, tmp_path / "cache", verify=False)
    assert len(hashed) == 8


def test_a_cache_that_can_only_be_read(make_data_set, tmp_path, monkeypatch):
    index, _ = make_data_set(features=SHAPE)
    folder = FeatureTable.open(index, tmp_path / "cache").folder
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    before = sorted(tmp_path.rglob("*"))
    FeatureTable.open(index, tmp_path / "cache", session="a")
    assert sorted(tmp_path.rglob("*")) == before
    (folder / "frames.npy").write_bytes(b"?")
    with pytest.raises(DataError, match="damaged .frames.npy: truncated.* and cannot be written"):
        FeatureTable.open(index, tmp_path / "cache", session="a")


def test_a_cache_that_cannot_be_written(make_data_set, tmp_path):
    index, _ = make_data_set(features=SHAPE)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="the feature table cannot be written"):
        FeatureTable.open(index, tmp_path / "file")
