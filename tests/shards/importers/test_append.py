"""`append` gives what one import of everything gives, up to the order of rows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import Block, Index
from shards.__main__ import main
from shards.format import files
from shards.format.check import check_data_set
from shards.format.reader import read_feature_shard, read_sequence_shard

Row = tuple[int, str, int]


def run(*arguments: object) -> Index:
    assert main([str(argument) for argument in arguments]) == 0
    return Index.load(str(arguments[arguments.index("--out") + 1]))


def write_csv(path: Path, rows: list[Row], header: str = "user_id,item_id,timestamp") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def content(index: Index) -> dict[str, object]:
    """What a data set says of each user and each video, whatever their rows are."""
    block = Block.concatenate(read_sequence_shard(index, entry) for entry in index.sequence_shards)
    items, users = list(index.item_ids()), list(index.user_ids())
    sequences = {
        users[row]: (
            [items[item - 1] for item in block.item[a:b]],
            block.time[a:b].tolist(),
            block.boundary[row].tolist(),
        )
        for row, (a, b) in enumerate(zip(block.starts[:-1], block.starts[1:], strict=True))
    }
    videos = {
        items[row - 1]: frames[:count].tolist()
        for entry in index.feature_shards
        for row, frames, count in read_feature_shard(index, entry)
    }
    train_counts = dict(zip(items, index.train_counts()[1:].tolist(), strict=True))
    return {
        "sequences": sequences,
        "videos": videos,
        "train_counts": train_counts,
        "counts": index.counts,
        "sizes": (index.users, index.videos, index.interactions),
        "types": (index.user_id_type, index.item_id_type),
        "split": index.split,
        "shape": index.features,
    }


def random_rows(seed: int, rows: int = 500) -> list[Row]:
    """(user, item, time) by time, with repeats, ties and skewed ids, of which there are more later."""
    rng, log = random.Random(seed), []
    for time in sorted(rng.randrange(1, 61) for _ in range(rows)):
        users, items = 40 + time // 2, 15 + time * 5 // 12
        log.append((int(users * rng.random() ** 2), f"v{int(items * rng.random() ** 2)}", time))
    return log


def feature_folder(path: Path, frames: int = 4, kind: str = "float16") -> Path:
    """Features of two in three videos."""
    path.mkdir()
    for item in range(0, 40):
        if item % 3:
            rng = np.random.default_rng(item)
            np.save(path / f"v{item}.npy", rng.standard_normal((1 + item % frames, 5)).astype(kind))
    return path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limits", [(), ("--max-length", 6), ("--split", "none")])
def test_two_appends_are_one_import(tmp_path: Path, seed: int, limits: tuple[object, ...]) -> None:
    """Late events, repeats of old ones, new users, new videos and videos without features among them."""
    rows, rng = random_rows(seed), random.Random(seed)
    parts = [rows[:250], rows[250:400], rows[400:]]
    parts[1] += rng.sample(parts[0], 20)  # there already
    late = rng.sample(range(200), 15)
    parts[2] += [parts[0][at] for at in late]
    parts[0] = [row for at, row in enumerate(parts[0]) if at not in late]
    features = feature_folder(tmp_path / "features")
    logs = [write_csv(tmp_path / f"{n}.csv", part) for n, part in enumerate(parts)]
    index = run("import", "table", logs[0], "--features", features, "--out", tmp_path / "0", *limits)
    users, items = list(index.user_ids()), list(index.item_ids())
    for n in (1, 2):
        older = index
        index = run(
            "append", tmp_path / f"{n - 1}", logs[n], "--features", features, "--out", tmp_path / f"{n}"
        )
        assert index.source["parent"] == older.fingerprint != index.fingerprint
        assert not list(check_data_set(index.path))
    whole = run("import", "table", *logs, "--features", features, "--out", tmp_path / "whole", *limits)
    found, expected = content(index), content(whole)
    if "--max-length" in limits:  # a video all of whose events were cut off keeps its row
        gone = set(found["train_counts"]) - set(expected["train_counts"])
        assert not gone & {item for sequence in found["sequences"].values() for item in sequence[0]}
        found["train_counts"] = {k: v for k, v in found["train_counts"].items() if k not in gone}
        found["videos"] = {k: v for k, v in found["videos"].items() if k not in gone}
        for name in ("sizes", "shape"):
            del found[name], expected[name]
    assert found == expected
    assert list(index.user_ids())[: len(users)] == users, "users keep their rows"
    assert list(index.item_ids())[: len(items)] == items, "videos keep their rows"
    assert index.users > len(users) and index.videos > len(items), "the case has new ids"


def test_new_features_may_have_more_frames_and_another_type(tmp_path: Path) -> None:
    """Then known videos are padded anew; otherwise their shards stay."""
    rows = random_rows(5)
    features = feature_folder(tmp_path / "features")
    first, second = write_csv(tmp_path / "a.csv", rows[:60]), write_csv(tmp_path / "b.csv", rows[60:])
    known = {item for _, item, _ in rows[:60]}
    run("import", "table", first, "--features", features, "--out", tmp_path / "a")
    for file in features.iterdir():
        if file.stem not in known:
            np.save(file, np.full((9, 5), 0.5, np.float32))
    new = run("append", tmp_path / "a", second, "--features", features, "--out", tmp_path / "b")
    whole = run("import", "table", first, second, "--features", features, "--out", tmp_path / "whole")
    assert (new.frames, new.features.dtype) == (9, "float32")
    assert content(new) == content(whole)


def test_shards_without_changes_are_the_same_files(tmp_path: Path) -> None:
    """Three shards of users, of which one changes and one is the last; the tars are those of one import."""
    users = 2 * 8192 + 100
    columns = {
        "user_id": np.repeat(np.arange(users), 3),
        "item_id": np.arange(3 * users) % 7,
        "timestamp": np.tile([1, 2, 3], users),
    }
    pq.write_table(pa.table(columns), tmp_path / "old.parquet")
    old = run("import", "table", tmp_path / "old.parquet", "--out", tmp_path / "old")
    events = {"user_id": [5, users, users + 1], "item_id": [3, 1, 2], "timestamp": [9, 9, 9]}
    log = tmp_path / "new.parquet"
    pq.write_table(pa.table(events), log)
    before = {path: path.stat() for path in (tmp_path / "old").rglob("*.tar")}
    new = run("append", tmp_path / "old", log, "--out", tmp_path / "new")
    whole = run("import", "table", tmp_path / "old.parquet", log, "--out", tmp_path / "whole")
    assert new.fingerprint == whole.fingerprint, (
        "no old id comes after a new one: nothing but the files differs"
    )
    assert new.sequence_shards == whole.sequence_shards
    inodes = [
        [Path(index.path, entry.file).stat().st_ino for entry in index.sequence_shards]
        for index in (old, new)
    ]
    assert [a == b for a, b in zip(*inodes, strict=True)] == [False, True, False]
    after = {path: path.stat() for path in (tmp_path / "old").rglob("*.tar")}
    assert [(s.st_size, s.st_mtime_ns) for s in after.values()] == [
        (s.st_size, s.st_mtime_ns) for s in before.values()
    ]
    assert not list(check_data_set(old.path))


def test_files_are_copied_where_links_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = feature_folder(tmp_path / "features")
    run(
        "import",
        "table",
        write_csv(tmp_path / "a.csv", random_rows(1)),
        "--features",
        features,
        "--out",
        tmp_path / "a",
    )

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    new = run(
        "append", tmp_path / "a", write_csv(tmp_path / "b.csv", [(3, "v1", 99)]), "--out", tmp_path / "b"
    )
    (old_tar,), (new_tar,) = ((tmp_path / name / "features").iterdir() for name in "ab")
    assert old_tar.read_bytes() == new_tar.read_bytes() and old_tar.stat().st_ino != new_tar.stat().st_ino
    assert not list(check_data_set(new.path))


def test_logs_without_times_follow(tmp_path: Path) -> None:
    rows = [(1, "a"), (2, "b"), (1, "a"), (1, "c")]
    first = write_csv(tmp_path / "a.csv", rows, "u,i")  # type: ignore[arg-type]
    second = write_csv(tmp_path / "b.csv", [(1, "c"), (1, "a"), (3, "a")], "u,i")  # type: ignore[arg-type]
    columns = ("--columns", "user=u,item=i")
    run("import", "table", first, *columns, "--out", tmp_path / "a")
    new = run("append", tmp_path / "a", second, *columns, "--out", tmp_path / "b")
    assert content(new)["sequences"][1] == (["a", "a", "c", "c", "a"], [0] * 5, [3, 4])
    whole = run("import", "table", first, second, *columns, "--out", tmp_path / "whole")
    assert content(new) == content(whole)


def test_ids_are_compared_as_the_data_set_has_them(tmp_path: Path) -> None:
    """Text that looks like numbers stays text, from Parquet's integers, too."""
    first = write_csv(tmp_path / "a.csv", [("07", "x", 1), ("12", "y", 1)])  # type: ignore[list-item]
    run("import", "table", first, "--out", tmp_path / "a")
    pq.write_table(
        pa.table({"user_id": [12, 13], "item_id": ["y", "y"], "timestamp": [2, 2]}), tmp_path / "b.parquet"
    )
    new = run("append", tmp_path / "a", tmp_path / "b.parquet", "--out", tmp_path / "b")
    assert new.user_ids() == ["07", "12", "13"]


def test_what_is_left_out_and_sorted_in_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(1, "a", 10), (1, "b", 20), (2, "a", 10)]
    run("import", "table", write_csv(tmp_path / "a.csv", rows), "--out", tmp_path / "a")
    log = write_csv(tmp_path / "b.csv", [(1, "b", 20), (1, "c", 15), (1, "c", 15), (2, "c", 10)])
    capsys.readouterr()
    new = run("append", tmp_path / "a", log, "--out", tmp_path / "b")
    said = capsys.readouterr().out.splitlines()
    assert content(new)["sequences"][1][0] == ["a", "c", "b"]
    assert content(new)["sequences"][2][0] == ["a", "c"], "of equal times, the older event is first"
    drops = new.source["drops"]
    assert (drops["exact_duplicates"], drops["events_already_there"]) == (1, 1)
    assert any("already there" in line and line.endswith(" 1") for line in said)
    assert sum("1 events are older than their user's newest" in line for line in said) == 1


@pytest.mark.parametrize(
    ("log", "more", "part"),
    [
        ([(1, "a", 10)], [], "has all of its events already"),
        ([], [], "found 0 events, expected at least one"),
        ([(5, "z", 30)], ["--columns", "user=who,item=item_id"], "no column 'who'"),
        ([(5, "z", 30)], ["--columns", "user=user_id,item=item_id"], "found no times, expected times"),
        ([(5, "z", 1_700_000_000_000)], [], "found times in ms, expected s"),
        ([("five", "z", 30)], [], "found the user id 'five', expected a whole number"),
        ([(5, "z", "soon")], [], "b.csv:2: column timestamp: found 'soon'"),
        ([(5, "z", 30)], ["--features", "nowhere"], "has none; give all its videos features by attach"),
        ([(5, "z", 30)], ["--columns", "user=user_id,item=item_id,split=timestamp"], "--columns split=..:"),
    ],
)
def test_faults_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: list[Row], more: list[str], part: str
) -> None:
    run(
        "import",
        "table",
        write_csv(tmp_path / "a.csv", [(1, "a", 10), (2, "b", 20)]),
        "--out",
        tmp_path / "a",
    )
    refused(capsys, part, tmp_path / "a", write_csv(tmp_path / "b.csv", log), "--out", tmp_path / "b", *more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.csv", "b.csv"], "something is left"


def refused(capsys: pytest.CaptureFixture[str], part: str, *arguments: object) -> None:
    """`append` ends with one line that says `part`."""
    capsys.readouterr()
    assert main(["append", *(str(argument) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line


def test_faults_of_the_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = feature_folder(tmp_path / "features")
    rows = random_rows(2)
    run(
        "import",
        "table",
        write_csv(tmp_path / "a.csv", rows),
        "--features",
        features,
        "--out",
        tmp_path / "a",
    )
    log = write_csv(tmp_path / "b.csv", [(1, "v1", 99)])
    refused(capsys, "exists already", tmp_path / "a", log, "--out", tmp_path / "a")
    refused(capsys, "no such data set directory", tmp_path / "none", log, "--out", tmp_path / "b")
    by_time = tmp_path / "by-time"
    run("import", "table", tmp_path / "a.csv", "--split", "time:50", "--out", by_time)
    refused(capsys, "found split time, expected leave-one-out or none", by_time, log, "--out", tmp_path / "b")
    for name in ("features", "sequences"):
        (tar,) = (tmp_path / "a" / name).iterdir()
        intact = tar.read_bytes()
        tar.write_bytes(intact[:700] + bytes([intact[700] ^ 1]) + intact[701:])
        files._verified.clear()  # as in a new process
        refused(capsys, "wrong checksum", tmp_path / "a", log, "--out", tmp_path / "b")
        tar.write_bytes(intact)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("b.partial", ".b", "b/"))]
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    np.save(narrow / "v77.npy", np.ones((2, 3)))
    new_video = write_csv(tmp_path / "c.csv", [(1, "v77", 99)])
    refused(
        capsys,
        "found width 3, expected 5",
        tmp_path / "a",
        new_video,
        "--features",
        narrow,
        "--out",
        tmp_path / "b",
    )


def test_a_kill_leaves_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed while it writes: nothing opens, the old data set is as it was, and a second try succeeds."""
    run("import", "table", write_csv(tmp_path / "a.csv", random_rows(3)), "--out", tmp_path / "a")
    log = write_csv(tmp_path / "b.csv", random_rows(4))
    program = (
        "import sys, time; from shards.__main__ import main; from shards.format import writer;"
        "writer.DataSetWriter.commit = lambda *_: (print('written', flush=True), time.sleep(60));"
        f"main(['append', r'{tmp_path / 'a'}', r'{log}', '--out', r'{tmp_path / 'b'}'])"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "b").exists()
    left = [path for path in tmp_path.iterdir() if path.name.startswith("b.partial")]
    assert left, "it was killed while it wrote"
    for folder in (tmp_path / "b", *left):
        assert main(["check", str(folder)]) != 0
    assert not list(check_data_set(tmp_path / "a"))
    run("append", tmp_path / "a", log, "--out", tmp_path / "b")
    assert not list(check_data_set(tmp_path / "b"))
