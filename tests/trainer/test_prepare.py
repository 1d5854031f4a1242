"""What is checked before a run starts, and what is prepared; real data sets and run directories."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards import DataError, DataSetWriter
from trainer import files, options, run_directory
from trainer.command_line import encode
from trainer.config import RunConfig
from trainer.distributed import World
from trainer.errors import UserError
from trainer.prepare import PreparedRun, join
from trainer.prepare import prepare as prepare_run
from trainer.rank import provenance

MakeData = Callable[..., Path]


def prepare(*arguments: object, world_size: int = 2) -> PreparedRun:
    asked = options.parse([str(argument) for argument in arguments])
    return prepare_run(asked, world_size=world_size, on_gpu=False)


def begin(run: Path, data: Path, *arguments: object) -> PreparedRun:
    """A run that was started and has ended before it was finished, as its ranks leave it."""
    prepared = prepare("--run", run, "--data", data, *arguments)
    fingerprint = json.loads((data / "index.json").read_text())["fingerprint"]
    files.write_json(run / run_directory.ENVIRONMENT, {"fingerprint": fingerprint, "data": str(data)})
    prepared.lock.release()
    return prepared


def test_prepare_fills_in_what_the_data_say(tmp_path: Path, make_data: MakeData) -> None:
    prepared = prepare("--run", tmp_path / "run", "--data", make_data(), "--data.max_length", 7)
    model = options.load(tmp_path / "run" / run_directory.CONFIG).model
    assert model == prepared.config.model
    assert (model.videos, model.frames, model.width, model.max_length) == (24, 2, 4, 7)
    assert str(prepared.batching) == "batch 128 = micro-batch 64 x accumulation 1 x ranks 2"
    with pytest.raises(UserError, match="in use by process"):
        run_directory.claim(tmp_path / "run", resume=True)
    prepared.lock.release()


def test_a_run_names_itself(tmp_path: Path, make_data: MakeData, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (prepare("--preset", "study", "--data", make_data()) for _ in range(2))
    assert first.run_dir != second.run_dir
    assert first.run_dir.parent == tmp_path / "runs" and "study" in first.run_dir.name


def test_relative_data_are_found_from_anywhere(tmp_path: Path, make_data: MakeData, monkeypatch) -> None:
    monkeypatch.chdir(make_data().parent)
    prepared = prepare("--run", tmp_path / "run", "--data", make_data().name)
    assert options.load(prepared.run_dir / run_directory.CONFIG).data.path == str(make_data())


def test_resume_takes_the_runs_own_configuration(tmp_path: Path, make_data: MakeData) -> None:
    begin(tmp_path / "run", make_data(), "--model.dim", 32, "--train.lr", 0.5, "--preset", "study")
    again = prepare("--run", tmp_path / "run", "--resume", "--train.lr", 0.25)
    assert (again.config.model.dim, again.config.train.lr, again.config.preset) == (32, 0.25, "study")
    assert options.load(tmp_path / "run" / run_directory.CONFIG).train.lr == 0.25
    assert not again.finished


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model.dim", "32"], "--model.dim is 64 in .*/run, not 32: a run keeps it for its life"),
        (["--model.tcd.steps", "3"], "--model.tcd.steps is 10"),
        (["--data.max_length", "9"], "--data.max_length is 20"),
        (["--seed", "9"], "--seed is 0"),
        (["--train.batch_size", "64"], "--train.batch_size is 128"),
    ],
)
def test_resume_refuses_another_run(
    arguments: list[str], line: str, tmp_path: Path, make_data: MakeData
) -> None:
    begin(tmp_path / "run", make_data())
    before = (tmp_path / "run" / run_directory.CONFIG).read_text()
    with pytest.raises(UserError, match=line):
        prepare("--run", tmp_path / "run", "--resume", *arguments)
    assert (tmp_path / "run" / run_directory.CONFIG).read_text() == before
    prepare("--run", tmp_path / "run", "--resume").lock.release()  # the refused start holds no lock


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": "sha256:0'])
def test_a_damaged_record_of_the_environment_is_set_aside(
    content: str, tmp_path: Path, make_data: MakeData, capsys
) -> None:
    begin(tmp_path / "run", make_data())
    file = tmp_path / "run" / run_directory.ENVIRONMENT
    file.write_text(content)
    prepare("--run", tmp_path / "run", "--resume").lock.release()
    assert capsys.readouterr().err == f"warning: {file} is damaged; kept as damaged-{file.name}\n"
    assert file.with_name(f"damaged-{file.name}").read_text() == content and not file.exists()


def test_resume_refuses_other_data_and_takes_the_same_elsewhere(tmp_path: Path, make_data: MakeData) -> None:
    begin(tmp_path / "run", make_data())
    with pytest.raises(UserError, match="was made on .*/seed-0 .*: .*/seed-1 has other content"):
        prepare("--run", tmp_path / "run", "--resume", "--data", make_data(1))
    shutil.copytree(make_data(), tmp_path / "moved")
    prepare("--run", tmp_path / "run", "--resume", "--data", tmp_path / "moved").lock.release()


def test_data_with_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    length = np.array([1, 2], dtype=np.int32)  # the second user's last video is the test's, the first has one
    ids, time = np.arange(2), np.zeros(3, dtype=np.int64)
    boundary = np.array([[1, 1], [1, 1]], dtype=np.int32)
    name, split = "short", {"kind": "given"}
    with DataSetWriter(
        tmp_path / name, name=name, item_ids=np.arange(3), user_type="int64", split=split
    ) as writer:
        writer.add_users(ids, length, np.array([1, 2, 3], dtype=np.int32), time, boundary)
        writer.commit({})
    with pytest.raises(DataError, match="short: nothing to train on: no user has 2 items"):
        prepare("--run", tmp_path / "run", "--data", tmp_path / name)
    assert not (tmp_path / "run").exists()


def join_run(
    asked: RunConfig, *, is_main: bool, sent: list
) -> tuple[RunConfig, run_directory.RunLock | None]:
    """One rank's part of `join`; `sent` holds what rank 0 broadcasts."""

    def broadcast(value: object) -> object:
        if is_main:
            sent[:] = [value]
        return sent[0]

    return join(asked, is_main=is_main, world_size=2, on_gpu=False, broadcast=broadcast)


def test_ranks_without_an_operator_agree_on_a_run(tmp_path: Path, make_data: MakeData, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(run_directory.RUN_VARIABLE, raising=False)
    sent: list[object] = []
    arguments = ["--data", str(make_data()), "--train.lr", "0.5"]
    first, lock = join_run(options.parse(arguments), is_main=True, sent=sent)
    second, none = join_run(options.parse(arguments), is_main=False, sent=sent)
    assert first == second and first.train.lr == 0.5 and first.model.videos == 24 and none is None
    assert Path(first.run.dir).parent == tmp_path / "runs"
    with pytest.raises(UserError, match="in use"):
        run_directory.claim(first.run.dir, resume=True)
    lock.release()
    with pytest.raises(UserError, match="holds a run already"):
        join_run(options.parse([*arguments, "--run", first.run.dir]), is_main=True, sent=sent)
    with pytest.raises(UserError, match="holds a run already"):
        join_run(options.parse([*arguments, "--run", first.run.dir]), is_main=False, sent=sent)


def test_ranks_of_an_operator_join_its_run(tmp_path: Path, make_data: MakeData, monkeypatch) -> None:
    prepared = prepare("--run", tmp_path / "run", "--data", make_data(), "--model.dim", 32)
    monkeypatch.setenv(run_directory.RUN_VARIABLE, str(tmp_path / "run"))
    sent: list[object] = []
    config, lock = join_run(options.parse([]), is_main=True, sent=sent)
    assert config.model.dim == 32 and config.run.dir == str(tmp_path / "run")
    assert lock.path.name == run_directory.RANK_LOCK
    prepared.lock.release()


def test_credentials_are_kept_out_of_the_files_for_people(
    tmp_path: Path, make_data: MakeData, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(tmp_path / "cache"))
    run, data = tmp_path / "run", f"pipe:cat {make_data()}/{{}} #password"
    prepared = prepare("--run", run, "--data", data)
    prepared.lock.release()
    config = (run / run_directory.CONFIG).read_text()
    assert "password" not in config and "***" in config
    kept = run / run_directory.ADDRESS
    assert kept.read_text() == data and kept.stat().st_mode & 0o777 == 0o600
    assert options.load_run(run).data.path == data  # what the ranks read
    print(options.dump(prepared.config))
    assert "password" not in capsys.readouterr().out
    other = prepare("--run", tmp_path / "other", "--data", make_data())
    other.lock.release()
    assert not (tmp_path / "other" / run_directory.ADDRESS).exists()


def test_a_resumed_run_knows_the_credentials(tmp_path: Path) -> None:
    data = "https://host/set?token=password"
    (tmp_path / "run").mkdir()
    config = RunConfig()
    config.data.path = data
    options.save_run(tmp_path / "run", config)
    assert options.parse(["--run", str(tmp_path / "run"), "--resume"]).data.path == data
    given = ["--run", str(tmp_path / "run"), "--resume", "--data", "https://host/set?token=new"]
    assert options.parse(given).data.path == "https://host/set?token=new"


def test_credentials_are_kept_out_of_the_environment_file(monkeypatch) -> None:
    secret = "https://host/set?token=password"
    words = ["--run", "runs/a", "--data", secret, f"--data={secret}"]
    monkeypatch.setattr(sys, "argv", ["launch.py", encode(words), "--local_rank=0"])
    about = provenance.describe(World(), seed=0, fingerprint="f", data=secret)
    assert about["data"] == "https://host/set?token=***"
    assert about["command"] == ["launch.py", *words[:3], about["data"], f"--data={about['data']}"]
