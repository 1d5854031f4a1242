"""Contestants run in processes of their own and report rounds; the plain step trains as DeepSpeed's does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import data
from bench.contestants import Entry, ours, present, started, take_turns
from bench.report import read
from shards import Index, synthesise

OPTIONS = ("--preset", "study", "--train.tensorboard", "false")
ENTRIES = {
    "trains": Entry("trains", "ours", ("train", *OPTIONS)),
    "ranks": Entry("ranks", "ours", ("evaluate", *OPTIONS)),
    "multiplies": Entry("multiplies", "products", OPTIONS),
}


@pytest.mark.slow
def test_each_works_as_long_as_it_is_told(make_data: Callable[..., Path]) -> None:
    folder = str(make_data())
    entries = [
        Entry(entry.name, entry.module, (*entry.arguments, "--data", folder)) for entry in ENTRIES.values()
    ]
    entries.append(Entry("samples", "chain", ("24", "5", "8")))
    with started(entries) as contestants:
        rates = take_turns(contestants, seconds=0.1, rounds=2)
        assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
        for contestant in contestants.values():
            assert contestant.about["objective"]
            assert all(r["seconds"] >= 0.1 and r["peak"] > 10**7 for r in contestant.rounds)


def test_a_contestant_that_fails_ends_the_race_with_its_error() -> None:
    with (
        pytest.raises(SystemExit, match="no-such-preset"),
        started([Entry("wrong", "ours", ("train", "--preset", "no-such-preset"))]),
    ):
        pass


def test_missing_environments_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    here, missing = ENTRIES["trains"], Entry("Peer", "recbole", (), "no-such-environment")
    assert present([here, missing]) == [here]
    assert "without Peer" in capsys.readouterr().err


def test_the_events_for_peers_are_those_of_the_data_set(
    make_data: Callable[..., Path], tmp_path: Path
) -> None:
    index = Index.load(make_data())
    lines = data.write_events(index, tmp_path).read_text().splitlines()
    assert lines[0].split("\t") == ["user_id:token", "item_id:token", "timestamp:float", "part:float"]
    rows = [list(map(int, line.split("\t"))) for line in lines[1:]]
    training = [item for _, item, _, part in rows if part == 0]
    assert len(training) == index.train_counts().sum()
    assert sum(part == 2 for *_, part in rows) == index.counts.test_users
    first = [place for user, _, place, _ in rows if user == 0]
    assert first == list(range(len(first)))


def test_the_plain_step_is_the_step_of_a_run(make_data: Callable[..., Path], one_rank: None) -> None:
    from trainer import distributed, options, prepare
    from trainer.inputs import Inputs

    config = options.parse([*OPTIONS, "--data", str(make_data()), "--model.dim", "8"])
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    ours.choose_port()
    inputs = Inputs(config.data, config.model, distributed.init(), config.seed)
    batches: list[Any] = list(inputs.train_stream(batching).epoch(0))
    deep, plain = (make(config, batching, inputs) for make in (ours.deepspeed_step, ours.plain_step))
    for number, micro_batches in enumerate(batches * 3):
        expected = deep(micro_batches, 0, number).loss  # type: ignore[attr-defined]
        assert math.isclose(plain(micro_batches, 0, number), expected, rel_tol=1e-6)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_race_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import overhead

    synthesise(tmp_path / "world", users=60, videos=24, frames=2, width=4)
    out = tmp_path / "overhead.csv"
    arguments = ["--data", str(tmp_path / "world"), "--preset", "study", "--rounds", "1", "--seconds", "0.1"]
    monkeypatch.setattr("sys.argv", [overhead.__file__, *arguments, "--out", str(out)])
    overhead.main()
    rows = read(out)
    assert [row["contestant"] for row in rows][:2] == ["plain PyTorch", "DeepSpeed, ZeRO 0"]
    assert all(float(row["targets/core-s"]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "task"),
    [(peer, task) for peer in ("recbole", "rectools") for task in ("train", "evaluate")]
    + [("replay", "train")],
)
def test_peers_work_as_long_as_they_are_told(
    peer: str, task: str, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    events = data.write_events(Index.load(make_data()), tmp_path)
    entry = Entry(peer, peer, (task, str(events), "5", "8"), peer)
    if not entry.interpreter.exists():
        pytest.skip("`make bench-peers` makes its environment")
    with started([entry]) as contestants:
        rates = take_turns(contestants, seconds=0.1, rounds=1)
        assert rates[peer][0] > 0
        assert contestants[peer].about["version"]
