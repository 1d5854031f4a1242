"""What the index and the readers say of broken data sets: one line with file, record, field and fault."""

import re

import numpy as np
import pytest

from shards import DataError, Features, Index
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
    file.write_bytes(file.read_bytes()[:1300])
    rewrite_index(
        data.path, lambda raw: raw["sequence_shards"][0].update(bytes=1300, sha256=file_sha256(file))
    )
    says(data.path, r"sequences-000000\.tar: (not readable as a tar|record .* found only|found \d+ users)")


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
        (lambda raw: raw.update(videos="many"), ["field videos: found 'many', expected int >= 1"]),
        (lambda raw: raw.update(videos=True), ["field videos: found True"]),
        (lambda raw: raw.update(users=61), ["users: found 61, expected 60, the sum over sequence_shards"]),
        (lambda raw: raw.update(schema_version=2), ["schema_version: found 2, expected 1"]),
        (
            lambda raw: raw["split"].update(kind="random"),
            ["split: field kind: found 'random', expected one of"],
        ),
        (lambda raw: raw["sequence_shards"][1].update(users=1), [r"sequence_shards\[1\]: users, first_user"]),
        (
            lambda raw: raw["sequence_shards"][0].update(train_lengths=[[3]]),
            ["train_lengths: found \\[\\[3\\]\\]"],
        ),
        (lambda raw: raw["counts"].pop("test_users") and None, ["counts: field test_users is missing"]),
        (lambda raw: raw["items"].update(file="../x"), ["expected a path inside the data set"]),
        (lambda raw: raw.update(features=None), ["feature shards hold 40 videos"]),
        (lambda raw: [], ["found list, expected an object"]),
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
