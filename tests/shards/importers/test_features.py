"""Feature sources against the arrays they were made from, and the messages for faulty ones."""

import os
import shutil
import zipfile

import numpy as np
import pytest

from shards import Index
from shards.__main__ import main
from shards.format.reader import read_feature_shard

IDS = [3, 5, 8, 9]


@pytest.fixture
def log(tmp_path):
    """A log of the items of IDS."""
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{i}\n" for u in (1, 2) for i in IDS))
    return file


def attach(log, features, *options):
    out = log.parent / f"out-{len(list(log.parent.iterdir()))}"
    arguments = ["import", "table", log, "--features", features, "--out", out, *options]
    assert main([str(argument) for argument in arguments]) == 0
    index = Index.load(out)
    videos = {
        int(index.item_ids()[row - 1]): (frames, count)
        for e in index.feature_shards
        for row, frames, count in read_feature_shard(index, e)
    }
    return index, videos


def says(capsys, log, features, options, *parts):
    arguments = ["import", "table", log, "--features", features, "--out", log.parent / "out", *options]
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0], lines[0]
    assert not list(log.parent.glob("out*"))


def draw(*shape, dtype=np.float16):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    """Features of 3 (2 frames), 5 (4 frames), 9 (zeros: failed) and 77, which the log has not; none of 8."""
    path = tmp_path / "features"
    path.mkdir()
    for item, frames in ((3, 2), (5, 4), (77, 9)):
        np.save(path / f"{item}.npy", draw(frames, 6))
    np.save(path / "9.npy", np.zeros((3, 6), np.float16))
    return path


def test_folder(log, folder):
    index, videos = attach(log, folder)
    assert (index.frames, index.width, index.features.dtype) == (4, 6, "float16")
    assert set(videos) == {3, 5} and index.features.videos_with_features == 2
    frames, count = videos[3]
    assert count == 2 and not frames[2:].any()
    np.testing.assert_array_equal(frames[:2], draw(2, 6))
    np.testing.assert_array_equal(videos[5][0], draw(4, 6))
    drops = index.source["drops"]
    assert drops["features_not_in_log"] == 1 and drops["videos_missing_in_features"] == 1
    assert drops["videos_with_zero_features"] == 1


def test_flat_vectors_are_frames_one_after_the_other(log, tmp_path):
    (tmp_path / "total").mkdir()
    for item in IDS:
        np.save(tmp_path / "total" / f"{item}.npy", np.arange(12, dtype=np.float32) + item)
    index, videos = attach(log, tmp_path / "total", "--feature-frames", 4)
    assert (index.frames, index.width, index.features.dtype) == (4, 3, "float32")
    np.testing.assert_array_equal(videos[8][0], np.arange(12).reshape(4, 3) + 8)
    index, videos = attach(log, tmp_path / "total")
    assert (index.frames, index.width) == (1, 12)


@pytest.mark.parametrize("shape", [(5, 3, 6), (5, 6)])
@pytest.mark.parametrize("listed", ["txt", "npy"])
def test_stack_with_a_list_of_ids(log, tmp_path, shape, listed):
    stack, ids = draw(*shape, dtype=np.float64), [9, 4, 3, 8, 5]
    np.save(tmp_path / "stack.npy", stack)
    if listed == "txt":
        (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    else:
        np.save(tmp_path / "ids.npy", np.array(ids))
    index, videos = attach(log, tmp_path / "stack.npy", "--feature-ids", tmp_path / f"ids.{listed}")
    assert index.features.dtype == "float32" and index.frames == (3 if len(shape) == 3 else 1)
    assert list(videos) == IDS
    for item, (frames, count) in videos.items():
        assert count == index.frames
        np.testing.assert_array_equal(frames, stack[ids.index(item)].reshape(-1, 6).astype(np.float32))


def test_stack_by_row(log, tmp_path):
    stack = draw(9, 2)
    np.save(tmp_path / "stack.npy", stack)
    _, videos = attach(log, tmp_path / "stack.npy", "--feature-ids", "row+1")
    for item in IDS:
        np.testing.assert_array_equal(videos[item][0][0], stack[item - 1])


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_archive_with_lengths(log, tmp_path, packed):
    stack = draw(5, 3, 6)
    packed(
        tmp_path / "f.npz",
        item_id=np.array([9, 5, 3, 8, 1]),
        features=stack,
        length=np.array([1, 3, 2, 0, 3]),
    )
    index, videos = attach(log, tmp_path / "f.npz")
    assert {item: count for item, (_, count) in videos.items()} == {3: 2, 5: 3, 9: 1}
    np.testing.assert_array_equal(videos[3][0][:2], stack[2, :2])
    assert not videos[3][0][2:].any() and not videos[9][0][1:].any()


def test_numbers_past_the_length_may_be_anything(log, tmp_path):
    stack = draw(4, 3, 6)
    stack[1, 2] = np.nan
    np.savez(tmp_path / "f.npz", item_id=IDS, features=stack, length=[3, 2, 3, 3])
    assert attach(log, tmp_path / "f.npz")[1][5][1] == 2


def test_text_ids(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n1,a,1\n1,b,2\n")
    np.savez(tmp_path / "f.npz", item_id=np.array(["b", "x"]), features=draw(2, 3, 6))
    out = tmp_path / "out"
    assert main(["import", "table", str(log), "--features", str(tmp_path / "f.npz"), "--out", str(out)]) == 0
    index = Index.load(out)
    assert index.features.videos_with_features == 1 and index.feature_shards[0].first_item == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_file_video_and_frame(log, folder, tmp_path, capsys, value):
    frames = draw(4, 6)
    frames[2, 1] = value
    np.save(folder / "5.npy", frames)
    says(capsys, log, folder, [], "5.npy: video 5, frame 2: found", str(value), "expected finite numbers")
    stack = draw(4, 3, 6)
    stack[3, 0, 0] = value
    np.savez(tmp_path / "f.npz", item_id=IDS, features=stack)
    says(capsys, log, tmp_path / "f.npz", [], "f.npz: row 3, frame 0: found")


def test_numbers_beyond_float32(log, tmp_path, capsys):
    np.savez(tmp_path / "f.npz", item_id=IDS, features=draw(4, 6, dtype=np.float64) * 1e300)
    says(capsys, log, tmp_path / "f.npz", [], "expected finite numbers")


def test_a_width_that_differs(log, folder, capsys):
    np.save(folder / "8.npy", draw(2, 7))
    says(capsys, log, folder, [], "8.npy: video 8: found width 7, expected 6 as in 3.npy")


def test_shapes_that_do_not_fit(log, folder, tmp_path, capsys):
    np.save(folder / "8.npy", draw(2, 3, 6))
    says(capsys, log, folder, [], "8.npy: found shape [2, 3, 6]", "expected [frames, width]")
    np.save(folder / "8.npy", draw(13))
    says(
        capsys, log, folder, ["--feature-frames", 4], "8.npy: found a vector of 13, expected a multiple of 4"
    )
    (folder / "8.npy").write_bytes(b"no array")
    says(capsys, log, folder, [], "8.npy: not readable as .npy")
    np.savez(tmp_path / "f.npz", item_id=IDS, features=draw(4, 3, 6), length=[1, 2, 4, 1])
    says(capsys, log, tmp_path / "f.npz", [], "length 4 for video 8, expected 4 lengths in 0..3")
    np.savez(tmp_path / "f.npz", item_id=[1, 2], features=draw(4, 3, 6))
    says(capsys, log, tmp_path / "f.npz", [], "found 4 videos for 2 ids")


def test_sources_that_cannot_be_joined(log, tmp_path, capsys):
    says(capsys, log, tmp_path / "none", [], "none: no such file or folder of features")
    np.savez(tmp_path / "f.npz", item_id=[100, 200], features=draw(2, 6))
    says(capsys, log, tmp_path / "f.npz", [], "ids such as '3', the features such as '100'")
    np.savez(tmp_path / "f.npz", item_ids=IDS, features=draw(4, 6))
    says(capsys, log, tmp_path / "f.npz", [], "no array 'item_id'; nearest: 'item_ids'")
    np.savez(tmp_path / "f.npz", item_id=[3, 3, 5, 8], features=draw(4, 6))
    says(capsys, log, tmp_path / "f.npz", [], "video 3 is there twice, in rows 0 and 1")
    np.save(tmp_path / "f.npy", draw(4, 6))
    says(capsys, log, tmp_path / "f.npy", [], "--feature-ids")
    says(capsys, log, log, [], "found '.csv', expected a folder, .npy or .npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:-30])
    says(capsys, log, tmp_path / "cut.npz", [], "cut.npz: not readable as .npz")


def npy(shape="(4, 3)", descr="'<f4'", content=48):
    """A `.npy` whose header says what it likes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(content)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (npy(shape="(-1,)", descr="'|V0'"), "found |V0"),
        (npy(shape="(0,)", descr="'|V0'", content=0), "found |V0"),
        (npy(shape="(-4, -3)"), "expected lengths of 0 or more"),
        (npy(shape="(4, 4)"), "found 48 bytes after the header, expected float32 [4, 4]"),
        (npy(shape="(4611686018427387904, 16)"), "found 48 bytes"),
        (npy(shape="(True, 12)"), "expected lengths of 0 or more"),
        (npy(descr="'|O'"), "found object, expected floats or integers"),
        (npy(descr="'<U3'"), "found <U3, expected floats or integers"),
        (npy(descr="[('a', '<f4')]"), "expected floats or integers"),
        (npy(descr="7"), "not readable as .npy"),
        (npy(shape="((((("), "not readable as .npy"),
        (npy(shape="()", content=4), "found shape []"),
        (npy()[:40], "not readable as .npy"),
        (b"\x93NUMPY\x09\x00", "found version (9, 0)"),
        (b"", "not readable as .npy"),
    ],
)
def test_arrays_that_are_not_what_they_say(log, tmp_path, capsys, content, part):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "3.npy").write_bytes(content)
    says(capsys, log, tmp_path / "features", [], "3.npy", part)
    (tmp_path / "stack.npy").write_bytes(content)
    says(capsys, log, tmp_path / "stack.npy", ["--feature-ids", "row+1"], "stack.npy", part)


def test_a_pipe_in_place_of_an_array(log, tmp_path, capsys):
    (tmp_path / "features").mkdir()
    os.mkfifo(tmp_path / "features" / "3.npy")
    says(capsys, log, tmp_path / "features", [], "3.npy", "not a regular file")


def test_archives_with_other_members(log, tmp_path, capsys):
    stack = draw(2, 3, 6)
    file = tmp_path / "f.npz"
    ids = np.array([3, 5])
    for length, found in (([np.nan, 1], "length nan"), ([1.5, 1], "length 1.5"), ([[1, 1]], "shape [1, 2]")):
        np.savez(file, item_id=ids, features=stack, length=np.array(length))
        says(capsys, log, file, [], f"found {found}", "expected 2 lengths in 0..3")
    np.savez(file, item_id=np.array(3), features=stack)
    says(capsys, log, file, [], "found ids of shape []")
    np.savez(file, item_id=np.array([3.0, 5.0]), features=stack)
    says(capsys, log, file, [], "found float64, expected integers or text")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("item_id", b"3")
        archive.writestr("features", b"3")
    says(capsys, log, file, [], "no array 'item_id'")
    np.savez_compressed(file, item_id=ids, features=stack)
    content = bytearray(file.read_bytes())
    content[content.index(b"features.npy") + 60] ^= 0xFF
    file.write_bytes(content)
    says(capsys, log, file, [], "not readable as .npz")


def test_an_archive_that_is_larger_than_the_disk(log, tmp_path, capsys, monkeypatch):
    np.savez_compressed(tmp_path / "f.npz", item_id=np.array([3, 5]), features=np.zeros((2, 4096, 64)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    says(capsys, log, tmp_path / "f.npz", [], "found 4.0 MiB when unpacked, expected at most the 1.0 MiB")


def test_ids_in_another_encoding(log, tmp_path, capsys):
    np.save(tmp_path / "stack.npy", draw(2, 6))
    (tmp_path / "ids.txt").write_bytes("3\n5\n".encode("utf-16"))
    says(
        capsys,
        log,
        tmp_path / "stack.npy",
        ["--feature-ids", str(tmp_path / "ids.txt")],
        "ids.txt",
        "not UTF-8",
    )
