"""`shards check` names every fault and goes on; `shards info` and the command line's exit codes."""

import shutil

import numpy as np
import pytest

from shards import Features
from shards.__main__ import main
from shards.format.check import check_data_set
from shards.format.info import format_size, histogram
from tests.shards.format.tamper import rewrite_index, rewrite_shard

FEATURES = Features(3, 4, "float32")


@pytest.fixture
def data(make_data_set):
    index, _ = make_data_set(users=120, features=FEATURES)
    return index


def test_a_sound_data_set_has_no_faults(data, capsys):
    assert list(check_data_set(data.path)) == []
    assert main(["check", data.path]) == 0
    assert capsys.readouterr().out.strip().endswith("sound")


def test_all_faults_are_named_in_one_run(data, capsys):
    def spoil_items(samples):
        samples[0]["item.npy"][0] = 99
        samples[1]["boundary.npy"][3] = (7, 2)
        samples[2]["user.npy"][1] = 5

    def spoil_frames(samples):
        samples[0]["frames.npy"][0, 0] = np.nan
        samples[1]["frames.npy"] = np.zeros((3, 9), np.float32)

    rewrite_shard(data.path, "sequences", 0, spoil_items)
    rewrite_shard(data.path, "features", 0, spoil_frames)
    data.local(data.sequence_shards[1]).unlink()
    changed = data.local(data.feature_shards[1])
    changed.write_bytes(changed.read_bytes()[:-1024])
    faults = list(check_data_set(data.path))
    expected = [
        "block-00000000, field item: found 99 for user 0",
        "block-00000001, field boundary: found (7, 2) for user 19",
        "block-00000002, field user: found 5 in row 1, expected 33",
        "video-00000001, field frames: found nan in frame 0",
        "video-00000002, field frames: found width 9, expected width 4",
        "sequences-000001.tar: missing",
        "features-000001.tar: truncated",
    ]
    for part in expected:
        assert sum(part in fault for fault in faults) == 1, (part, faults)
    assert len(faults) == len(expected), faults
    assert main(["check", data.path]) == 1
    assert f"{len(faults)} faults" in capsys.readouterr().out


def test_broken_records_do_not_hide_the_rest(data):
    def spoil(samples):
        samples[0]["item.npy"] = b"?"
        samples[2]["time.npy"] = samples[2]["time.npy"][:-1]

    rewrite_shard(data.path, "sequences", 0, spoil)
    faults = list(check_data_set(data.path))
    assert any("block-00000000, field item.npy: not decodable" in fault for fault in faults)
    assert any("block-00000002, field time: found shape" in fault for fault in faults)


def test_checksum_of_every_file(data):
    for entry in data.files:
        file = data.local(entry)
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert any(str(file) in fault and "wrong checksum" in fault for fault in check_data_set(data.path)), (
            file
        )
        file.write_bytes(before)
    assert list(check_data_set(data.path)) == []


@pytest.mark.parametrize(
    "field", ["interactions", "fingerprint", "train_events", "valid_users", "short_users"]
)
def test_the_index_is_compared_with_the_records(data, field):
    def change(raw):
        holder = raw if field in raw else raw["counts"]
        holder[field] = "sha256:0" if field == "fingerprint" else holder[field] + 1

    rewrite_index(data.path, change)
    faults = list(check_data_set(data.path))
    assert len(faults) == 1 and f"field {field}: found" in faults[0]


def test_train_lengths_are_compared_with_the_records(data):
    def change(raw):
        lengths = raw["sequence_shards"][0]["train_lengths"]
        lengths[0][1] += 1
        lengths[1][1] -= 1

    rewrite_index(data.path, change)
    assert any("train_lengths" in fault for fault in check_data_set(data.path))


def test_unreadable_data_sets_exit_2_with_one_line(tmp_path, data, capsys):
    for command in ("check", "info"):
        assert main([command, str(tmp_path / "nothing")]) == 2
        assert capsys.readouterr().err == f"error: {tmp_path}/nothing: no such data set directory\n"
    shutil.rmtree(tmp_path / "data" / "sequences")
    assert main(["info", data.path]) == 2


def test_info(data, capsys):
    assert main(["info", data.path]) == 0
    text = capsys.readouterr().out
    for part in (data.fingerprint, "120", "[3, 4] float32", "10 videos without features", "leave-one-out"):
        assert part in text


def test_histogram_bins():
    lines = histogram([(0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (5, 3), (8, 5), (9, 80)])
    found = [(line.split()[0], int(line.split()[1])) for line in lines]
    assert found == [("0", 1), ("1", 2), ("2", 4), ("3-4", 16), ("5-8", 8), ("9-16", 80)]
    assert lines[-1].endswith("#" * 40)


def test_sizes_for_people():
    assert [format_size(n) for n in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]
