"""What the index and the readers say of broken data sets: one line with file, record, field and fault."""

import bz2
import gzip
import lzma
import os
import re
import tarfile

import numpy as np
import pytest

from shards import DataError, Features, Index
from shards.__main__ import main
from shards.format.check import check_data_set
from shards.format.files import file_sha256
from shards.format.reader import read_feature_shard, read_sequence_shard
from tests.shards.format.tamper import rewrite_index, rewrite_shard

FEATURES = Features(3, 4, "float32")


@pytest.fixture
def data(make_data_set):
    index, _ = make_data_set(users=60, features=FEATURES)
    return index


def read_all(path):
    index = Index.load(path)
    for entry in index.sequence_shards:
        read_sequence_shard(index, entry)
    for entry in index.feature_shards:
        list(read_feature_shard(index, entry))


def says(path, *parts):
    with pytest.raises(DataError) as caught:
        read_all(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message), message


def test_sound(data):
    read_all(data.path)


def test_no_such_directory(tmp_path):
    says(tmp_path / "nothing", "nothing: no such data set directory")
    (tmp_path / "empty").mkdir()
    says(tmp_path / "empty", r"no index\.json")


def test_missing_tar(data):
    data.local(data.sequence_shards[1]).unlink()
    says(data.path, r"sequences-000001\.tar: missing; the index expects \d+ bytes")


@pytest.mark.parametrize("family", ["sequence_shards", "feature_shards"])
def test_truncated_tar(data, family):
    file = data.local(getattr(data, family)[0])
    file.write_bytes(file.read_bytes()[:-700])
    says(data.path, r"000000\.tar: truncated: found \d+ bytes, expected \d+")


def test_truncated_tar_that_the_index_lists(data):
    file = data.local(data.sequence_shards[0])
    content = file.read_bytes()
    for size, fault in (
        (1300, r"sequence_shards\[0\]: found \d+ users and \d+ training events in 1300 bytes"),
        (
            len(content) - 12_000,
            r"sequences-000000\.tar: (not readable as a plain tar|record|found \d+ users)",
        ),
    ):
        file.write_bytes(content[:size])
        resign(data, "sequence_shards", 0)
        says(data.path, fault)


@pytest.mark.parametrize("family", ["sequence_shards", "feature_shards"])
def test_wrong_checksum(data, family):
    file = data.local(getattr(data, family)[1])
    content = bytearray(file.read_bytes())
    content[700] ^= 1
    file.write_bytes(content)
    says(data.path, r"000001\.tar: wrong checksum: found sha256 \w+\.\.\., expected \w+")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(data, value):
    def change(samples):
        samples[2]["frames.npy"][0, 1] = value

    rewrite_shard(data.path, "features", 0, change)
    says(data.path, r"record video-00000003, field frames: found -?(nan|inf) in frame 0, expected finite")


def test_another_width(data):
    def change(samples):
        samples[1]["frames.npy"] = np.zeros((3, 5), np.float32)

    rewrite_shard(data.path, "features", 0, change)
    says(data.path, r"record video-00000002, field frames: found width 5, expected width 4")


def test_another_dtype(data):
    def change(samples):
        samples[1]["frames.npy"] = samples[1]["frames.npy"].astype(np.float16)

    rewrite_shard(data.path, "features", 0, change)
    says(data.path, r"found float16 \[3, 4\], expected float32 \[3, 4\]")


def test_frame_count(data):
    rewrite_shard(data.path, "features", 0, lambda samples: samples[1].update({"count.cls": 4}))
    says(data.path, r"record video-00000002, field count: found 4, expected 1\.\.3")


@pytest.mark.parametrize("value", [0, -1, 51, 2**30])
def test_item_outside_the_map(data, value):
    def change(samples):
        samples[1]["item.npy"][5] = value

    rewrite_shard(data.path, "sequences", 0, change)
    says(data.path, rf"record block-00000001, field item: found {value} for user \d+, expected .* 1\.\.50")


def test_empty_sequence(data):
    def change(samples):
        length = samples[0]["length.npy"]
        samples[0]["item.npy"] = samples[0]["item.npy"][length[0] :]
        samples[0]["time.npy"] = samples[0]["time.npy"][length[0] :]
        length[0] = 0

    rewrite_shard(data.path, "sequences", 0, change)
    says(data.path, r"field length: found 0 for user 0, expected at least 1 \(an empty sequence\)")


def test_missing_field(data):
    def change(samples):
        del samples[0]["time.npy"]

    rewrite_shard(data.path, "sequences", 0, change)
    says(data.path, r"record block-00000000, field time\.npy: found only .*boundary\.npy")


def test_field_that_does_not_decode(data):
    def change(samples):
        samples[0]["item.npy"] = b"not an array"

    rewrite_shard(data.path, "sequences", 0, change)
    says(data.path, r"record block-00000000, field item\.npy: not decodable")


def test_records_that_are_gone(data):
    rewrite_shard(data.path, "sequences", 1, lambda samples: samples[:-1])
    says(data.path, r"sequences-000001\.tar: found \d+ users, expected \d+")


def test_records_that_are_gone_from_the_features(data):
    rewrite_shard(data.path, "features", 0, lambda samples: samples[:-1])
    says(data.path, r"features-000000\.tar: found \d+ videos, expected \d+")


def test_no_shards(data):
    rewrite_index(data.path, lambda raw: raw.update(sequence_shards=[]))
    says(data.path, r"index\.json: no shards: sequence_shards is empty")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda raw: raw.pop("users") and None, ["field users is missing"]),
        (lambda raw: raw.update(videos="many"), ["field videos: found 'many', expected a valid integer"]),
        (lambda raw: raw.update(videos=True), ["field videos: found True"]),
        (lambda raw: raw.update(users=61), ["users: found 61, expected 60, the sum over sequence_shards"]),
        (lambda raw: raw.update(schema_version=2), ["schema_version: found 2, expected 1"]),
        (
            lambda raw: raw["split"].update(kind="random"),
            [r"field split\.kind: found 'random', expected 'leave-one-out', 'time'"],
        ),
        (lambda raw: raw["sequence_shards"][1].update(users=1), [r"sequence_shards\[1\]: users, first_user"]),
        (
            lambda raw: raw["sequence_shards"][0].update(train_lengths=[[3]]),
            [r"field sequence_shards\[0\]\.train_lengths\[0\]\[1\] is missing"],
        ),
        (lambda raw: raw["counts"].pop("test_users") and None, [r"field counts\.test_users is missing"]),
        *[
            (
                lambda raw, file=file: raw["items"].update(file=file),
                [r"field items\.file: found", "expected a path inside the data set"],
            )
            for file in ("../x", "/etc/passwd", "", ".", "a\0b", "a\nb")
        ],
        (lambda raw: raw["items"].update(sha256="?"), [r"field items\.sha256: found '\?'"]),
        (lambda raw: raw.update(videos=10**12), ["field videos: found 1000000000000, expected less than"]),
        (lambda raw: raw.update(videos=10**4000), [r"field videos: found 1000\d*\.\.\."]),
        (lambda raw: raw.update(users=float("inf")), ["Infinity|field users: found inf"]),
        (
            lambda raw: raw.update(interactions=10**9),
            ["field interactions: found 1000000000, expected 60 to"],
        ),
        (
            lambda raw: raw["features"].update(frames=10**9),
            [r"feature_shards\[0\]: found \d+ videos of 16000000000 bytes in"],
        ),
        (
            lambda raw: raw["feature_shards"][0].update(first_item=50),
            [r"feature_shards\[0\]: field first_item: found 50"],
        ),
        *[
            (
                lambda raw, length=length: raw["sequence_shards"][0]["train_lengths"][0].__setitem__(
                    0, length
                ),
                [r"sequence_shards\[0\]"],
            )
            for length in (-1, 10**6, 10**30, float("inf"), 1.5, "7", None)
        ],
        (lambda raw: raw["source"].update(drops=["x"]), [r"field source\.drops: found \['x'\]"]),
        (lambda raw: raw.update(features=None), ["feature shards hold 40 videos"]),
        (lambda raw: [], [r"found \[\], expected an object"]),
    ],
)
def test_index_faults(data, change, parts):
    rewrite_index(data.path, change)
    says(data.path, r"index\.json", *parts)


def test_index_that_is_not_json(data, tmp_path):
    (tmp_path / "data" / "index.json").write_text('{"users": ')
    says(data.path, "not readable as JSON")


def test_id_columns(data):
    rewrite_index(data.path, lambda raw: raw["id_type"].update(item="string"))
    with pytest.raises(DataError, match="column id: found 50 rows of int64, expected 50 rows of string"):
        Index.load(data.path).item_ids()


def test_sizes_of_all_shards_are_compared_at_load(data):
    data.local(data.feature_shards[-1]).unlink()
    with pytest.raises(DataError, match="missing"):
        Index.load(data.path)
    Index.load(data.path, check_sizes=False)


def test_an_index_that_is_too_large_is_not_read(data):
    with open(f"{data.path}/index.json", "r+b") as file:
        file.truncate(1 << 42)
    says(data.path, r"index\.json: found 4398046511104 bytes, expected at most 1073741824")


def resign(data, family, number):
    """Make the index list a shard as it is now."""
    file = data.local(getattr(data, family)[number])
    rewrite_index(
        data.path,
        lambda raw: raw[family][number].update(bytes=file.stat().st_size, sha256=file_sha256(file)),
    )


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_a_compressed_tar_is_not_unpacked(data, packer):
    file = data.local(data.sequence_shards[0])
    file.write_bytes(packer.compress(file.read_bytes() * 100))
    resign(data, "sequence_shards", 0)
    says(data.path, r"sequences-000000\.tar: not readable as a plain tar|found \d+ users and")


def test_a_sparse_tar_is_not_read(data):
    file = data.local(data.feature_shards[0])
    header = tarfile.TarInfo("video-00000001.frames.npy")
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 42)}
    padding = bytes(file.stat().st_size)
    file.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + padding)
    resign(data, "feature_shards", 0)
    says(data.path, r"features-000000\.tar: not readable as a plain tar: .*sparse")


@pytest.mark.parametrize("size", [1 << 42, -512])
def test_a_member_of_an_absurd_size(data, size):
    file = data.local(data.feature_shards[0])
    content = bytearray(file.read_bytes())
    header = tarfile.TarInfo("video-00000001.frames.npy")
    header.size = size
    content[:512] = header.tobuf(tarfile.GNU_FORMAT)
    file.write_bytes(content)
    resign(data, "feature_shards", 0)
    says(data.path, r"features-000000\.tar: not readable as a plain tar: video-00000001")


@pytest.mark.parametrize("value", [np.float32(7), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)])
def test_records_without_numbers(data, value):
    rewrite_shard(data.path, "features", 0, lambda samples: samples[1].update({"frames.npy": value}))
    says(data.path, "record video-00000002, field frames: found")
    assert any("video-00000002, field frames" in fault for fault in check_data_set(data.path))
    rewrite_shard(data.path, "sequences", 0, lambda samples: samples[1].update({"item.npy": value}))
    says(data.path, "record block-00000001, field item: found")
    assert any("block-00000001, field item" in fault for fault in check_data_set(data.path))


def test_a_block_without_users(data):
    def change(samples):
        for name in ("user", "length", "item", "time", "boundary"):
            samples[1][f"{name}.npy"] = samples[1][f"{name}.npy"][:0]

    rewrite_shard(data.path, "sequences", 0, change)
    says(data.path, "record block-00000001, field length: found no users, expected at least 1")
    assert any("found no users" in fault for fault in check_data_set(data.path))


@pytest.mark.parametrize("family", ["sequence_shards", "items_file"])
def test_a_pipe_in_place_of_a_file(data, family):
    entry = getattr(data, family)
    file = data.local(entry[0] if family == "sequence_shards" else entry)
    file.unlink()
    os.mkfifo(file)
    says(data.path, f"{file.name}: not a regular file")
    assert any(f"{file.name}: not a regular file" in fault for fault in check_data_set(data.path))


def test_names_that_a_terminal_would_act_on(data, capsys):
    rewrite_index(data.path, lambda raw: raw.update(name="\x1b]0;title\x07", fingerprint="\ud800\x1b[2J"))
    main(["info", data.path])
    main(["check", data.path])
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err


@pytest.mark.parametrize("name", ["items_file", "users_file"])
def test_damaged_ids(data, name):
    file = data.local(getattr(data, name))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    index = Index.load(data.path)
    with pytest.raises(DataError, match=rf"{file.name}: wrong checksum"):
        index.item_ids() if name == "items_file" else index.user_ids()
