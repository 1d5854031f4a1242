"""Recommendations of a run and of its export, for users of the data set and for others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from shards import HistoryStream, Index, read_sequence_shard
from tests.trainer import runs
from trainer.errors import UserError
from trainer.evaluation.run import open_inputs, open_run, single_world
from trainer.serving import Recommender, export, recommend

Histories = list[list[int]]


@pytest.fixture(scope="module")
def run(one_rank: dict[str, Path]) -> Path:
    return one_rank["whole"]


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(cache))


@pytest.fixture(scope="module")
def index(data: Path) -> Index:
    return Index.load(data)


@pytest.fixture(scope="module")
def histories(index: Index) -> Histories:
    """Every user's whole history, original ids."""
    ids, histories = index.item_ids(), []
    for entry in index.sequence_shards:
        block = read_sequence_shard(index, entry)
        for start, end in zip(block.starts[:-1], block.starts[1:], strict=True):
            histories.append(ids[block.item[start:end] - 1].tolist())
    return histories


def truth(run: Path, k: int, *, nobodys: bool) -> list[list[int]]:
    """The best videos of every user, by the model itself; `nobodys`: as if nobody knew whose they are."""
    config, best = open_run(str(run), None)
    inputs = open_inputs(config, best, single_world())
    model, ids, found = best.model(inputs).eval(), inputs.index.item_ids(), []
    for batch in HistoryStream(
        inputs.index, batch_size=100, max_length=config.data.max_length, table=inputs.table
    ):
        if nobodys:
            batch["sample_id"].zero_()
        with torch.no_grad():
            _, videos = model(inputs.on_device(batch), task="top", k=k, sampler_steps=0)
        found += ids[videos.numpy() - 1].tolist()
    return found


def ranked(out: Path) -> dict[int, list[int]]:
    table = pyarrow.parquet.read_table(out).to_pylist()
    users: dict[int, list[int]] = {}
    for row in table:
        users.setdefault(row["user"], []).append(row["item"])
        assert row["rank"] == len(users[row["user"]])
    return users


def test_users_of_the_data_set(run: Path, index: Index, tmp_path: Path) -> None:
    out = tmp_path / "top.parquet"
    assert recommend.main([str(run), "--out", str(out), "--top", "6"]) == 0
    expected = truth(run, 6, nobodys=False)
    assert ranked(out) == dict(zip(index.user_ids().tolist(), expected, strict=True))
    assert pyarrow.parquet.read_schema(out).types == [pa.int64(), pa.int32(), pa.int64(), pa.float32()]


def test_chosen_users_of_the_data_set(run: Path, index: Index, histories: Histories, tmp_path: Path) -> None:
    users, wanted, out = index.user_ids(), tmp_path / "users.txt", tmp_path / "top.parquet"
    wanted.write_text(f"{users[7]}\n{users[2]}\n")
    assert recommend.main([str(run), "--out", str(out), "--top", "6", "--users", str(wanted)]) == 0
    found = ranked(out)
    assert [*found] == [users[2], users[7]]
    for user in (2, 7):
        assert len(found[users[user]]) == 6 and not {*found[users[user]]} & {*histories[user]}
    wanted.write_text("nobody\n")
    with pytest.raises(UserError, match="no user 'nobody'"):
        recommend.main([str(run), "--out", str(tmp_path / "a.csv"), "--users", str(wanted)])


def test_an_export_ranks_as_its_run(run: Path, histories: Histories, tmp_path: Path) -> None:
    assert export.main([str(run), "--out", str(tmp_path / "export")]) == 0
    of_run, of_export = Recommender.load(run), Recommender.load(tmp_path / "export")
    found = of_export.recommend(histories, k=6)
    assert found == of_run.recommend(histories, k=6)
    assert [[item for item, _ in row] for row in found] == truth(run, 6, nobodys=True)


def test_the_first_user_is_nobody(run: Path, histories: Histories) -> None:
    """Any history draws the noise of the data set's first user: for that user both ways agree."""
    (row,) = Recommender.load(run).recommend(histories[:1], k=6)
    assert [item for item, _ in row] == truth(run, 6, nobodys=False)[0]


def test_an_export_needs_neither_the_run_nor_its_data(
    run: Path, data: Path, histories: Histories, tmp_path: Path
) -> None:
    moved, its_data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(run, moved)
    shutil.copytree(data, its_data)
    export.main([str(moved), "--out", str(tmp_path / "export"), "--data", str(its_data)])
    before = Recommender.load(moved, data=str(its_data)).recommend(histories[:9], k=4)
    shutil.rmtree(its_data)
    with pytest.raises(ValueError, match="data: no such data set directory"):
        Recommender.load(moved, data=str(its_data))
    shutil.rmtree(moved)
    assert Recommender.load(tmp_path / "export").recommend(histories[:9], k=4) == before


def test_a_run_without_video_needs_no_data(
    workplace: Path, data: Path, cache: Path, histories: Histories
) -> None:
    run = workplace / "ids-only"
    arguments = runs.arguments(run, data, model__use_video="false", train__max_epochs=1)
    assert runs.train_several(1, [arguments], cache) == [None]
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(data), "/gone"))
    found = Recommender.load(run).recommend(histories[:3], k=5)
    assert all(
        len(row) == 5 and not {item for item, _ in row} & {*seen}
        for row, seen in zip(found, histories, strict=False)
    )


def test_a_data_set_with_other_videos(run: Path, make_data, tmp_path: Path) -> None:
    other = str(make_data(3))
    with pytest.raises(UserError, match="has other videos than the data of"):
        recommend.main([str(run), "--out", str(tmp_path / "top.csv"), "--data", other])


def test_the_card_and_what_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export.main([str(run), "--out", str(out), "--license", "cc-by-4.0"])
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: mealrec\n")
    fingerprint = open_run(str(run), None)[1].facts.fingerprint
    assert fingerprint in card and "ndcg@10" in card and "sasrec, 2 layers of width 16" in card
    with pytest.raises(UserError, match="exists already"):
        export.main([str(run), "--out", str(out)])
    with pytest.raises(UserError, match="is an export already, expected a run"):
        export.main([str(out), "--out", str(tmp_path / "again")])
    with pytest.raises(UserError, match="no such run or export"):
        export.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "again")])
    assert not (tmp_path / "again").exists()
