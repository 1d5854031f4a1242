"""Videos without training events: how the data set is made, and what is measured on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import new_videos
from bench.report import read
from shards import Block, Index, read_sequence_shard, synthesise

ONE_EPOCH = ("--train.max_epochs", "1", "--model.dim", "8")


def sequences(index: Index) -> dict[object, tuple[list[object], int]]:
    """Each user's videos, and how many of them are trained on."""
    block = Block.concatenate(read_sequence_shard(index, entry) for entry in index.sequence_shards)
    items, users = index.item_ids(), index.user_ids()
    parts = zip(block.user, block.starts, block.length, block.boundary[:, 0], strict=False)
    return {
        users[user]: ([items[video - 1] for video in block.item[start : start + length]], int(trained))
        for user, start, length, trained in parts
    }


def test_new_videos_lose_their_training_events_alone(tmp_path: Path) -> None:
    index = synthesise(tmp_path / "world", users=80, videos=50, frames=2, width=4, seed=3)
    new_videos.hold_out(index, tmp_path)
    held_out = Index.load(tmp_path / "data")
    assert (held_out.frames, held_out.width) == (index.frames, index.width) == (2, 4)
    before, after = sequences(index), sequences(held_out)
    seen = {video for videos, trained in after.values() for video in videos[:trained]}
    lost = set()
    for user, (videos, trained) in after.items():
        old, old_trained = before[user]
        assert videos[trained:] == old[old_trained:], "validation and test stay"
        left = iter(old[:old_trained])
        assert all(video in left for video in videos[:trained]), "the order stays"
        lost |= set(old[:old_trained]) - set(videos[:trained])
    assert len(lost) <= round(new_videos.SHARE * index.videos) and lost and not lost & seen

    asked, new = new_videos.new_targets(held_out)
    ids = held_out.item_ids()
    assert {ids[row - 1] for row in new} == set(ids) - seen
    users = {user: videos for user, (videos, _) in after.items() if videos[-1] not in seen}
    assert len(asked) == len(users) > 0
    for place, row in enumerate(asked.user):
        videos = users[held_out.user_ids()[row]]
        assert ids[asked.target[place] - 1] == videos[-1]
        history = asked.history[asked.start[place] : asked.start[place + 1]]
        assert [ids[video - 1] for video in history] == videos[:-1]


def test_chance_is_what_random_places_give() -> None:
    place = np.random.default_rng(0).integers(0, 40, 200_000)
    drawn, expected = new_videos.gains_at(place), new_videos.chance(40, users=3)
    assert expected["hr@10"].tolist() == [0.25] * 3
    assert drawn["ndcg@10"].mean() == pytest.approx(expected["ndcg@10"][0], rel=0.02)


@pytest.mark.slow
def test_runs_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "world"
    synthesise(data, users=80, videos=50, frames=2, width=4, seed=3)
    monkeypatch.setattr(new_videos, "RESULTS", tmp_path)
    words = ["new_videos", "--data", str(data), "--out", str(tmp_path / "runs"), "--", *ONE_EPOCH]
    monkeypatch.setattr("sys.argv", [new_videos.__file__, *words[1:]])
    new_videos.main()
    (table,) = tmp_path.glob("new-videos-*.csv")
    rows = read(table)
    assert len(rows) == 7 and {row["embeddings"] for row in rows} == {*new_videos.EMBEDDINGS, "chance"}
    results = sorted((tmp_path / "runs").glob("*/runs/*/results.json"))
    changed = [file.stat().st_mtime_ns for file in results]
    new_videos.main()
    assert read(table) == rows and [file.stat().st_mtime_ns for file in results] == changed
