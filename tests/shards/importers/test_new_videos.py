"""Videos that nobody has watched join a data set by a list of their ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards import Index, read_feature_shard
from shards.__main__ import main
from shards.format.check import check_data_set

LOG = [(1, 10, 1), (1, 20, 2), (1, 30, 3), (2, 20, 1), (2, 30, 2), (2, 10, 3)]


def write_log(path: Path, rows: list[tuple[int, int, int]], prefix: str = "") -> Path:
    lines = (f"{user},{prefix}{item},{time}" for user, item, time in rows)
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    return path


def write_features(folder: Path, *ids: object) -> Path:
    folder.mkdir(exist_ok=True)
    for number, video in enumerate(ids, start=1):
        np.save(folder / f"{video}.npy", np.full((2, 3), number, np.float16))
    return folder


def run(*words: object) -> Index:
    assert main([str(word) for word in words]) == 0
    return Index.load(str(words[words.index("--out") + 1]))


def features_of(index: Index) -> dict[object, float]:
    ids = index.item_ids()
    shards = (read_feature_shard(index, entry) for entry in index.feature_shards)
    return {ids[row - 1]: float(frames[0, 0]) for shard in shards for row, frames, _ in shard}


@pytest.mark.parametrize("prefix", ["", "v"])
def test_new_videos_follow_those_of_the_log(tmp_path: Path, prefix: str) -> None:
    def named(*numbers: int) -> list[object]:
        return [f"{prefix}{number}" if prefix else number for number in numbers]

    log = write_log(tmp_path / "log.csv", LOG, prefix)
    features = write_features(tmp_path / "features", *named(10, 20, 30, 70, 5))
    new = tmp_path / "new.txt"
    new.write_text("".join(f"{video}\n" for video in named(70, 20, 5, 70)) + "\n")
    index = run(
        "import", "table", log, "--features", features, "--new-videos", new, "--out", tmp_path / "set"
    )
    assert list(index.item_ids()) == named(10, 20, 30, 70, 5)
    assert index.interactions == len(LOG) and index.train_counts()[4:].tolist() == [0, 0]
    assert features_of(index) == dict(zip(named(10, 20, 30, 70, 5), (1, 2, 3, 4, 5), strict=True))
    assert not list(check_data_set(str(index.path)))

    # The next day: one of them is watched, others come.
    more = write_log(tmp_path / "more.csv", [(2, 70, 9), (3, 40, 9)], prefix)
    write_features(features, *named(10, 20, 30, 70, 5, 40, 90))
    new.write_text("".join(f"{video}\n" for video in named(90, 70, 40)))
    words = ("--features", features, "--new-videos", new, "--out", tmp_path / "next")
    newer = run("append", tmp_path / "set", more, *words)
    assert list(newer.item_ids()) == named(10, 20, 30, 70, 5, 40, 90)
    assert features_of(newer)[named(90)[0]] == 7 and newer.interactions == len(LOG) + 2
    assert not list(check_data_set(str(newer.path)))


def test_a_list_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, features = write_log(tmp_path / "log.csv", LOG), write_features(tmp_path / "features", 10, 70)
    new = tmp_path / "new.txt"
    out = ("--out", tmp_path / "set")

    def refused(*words: object) -> str:
        assert main([str(word) for word in ("import", "table", log, "--new-videos", new, *words, *out)]) == 2
        assert not (tmp_path / "set").exists()
        return capsys.readouterr().err.splitlines()[-1]

    assert "needs --features" in refused()
    assert f"{new}: no such file" in refused("--features", features)
    new.write_text("70\nseventy\n")
    assert "line 2: found 'seventy', expected a whole number" in refused("--features", features)
    new.write_bytes(b"\xff\xfe7")
    assert "not UTF-8" in refused("--features", features)
