"""What the operator checks before it starts anything; real data sets, run directories and command lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mealrec import MealRec
from shards import DataSetWriter, Index
from shards.plan import windows
from trainer import options, run_directory
from trainer.launch import dry_run, machine, operator
from trainer.__main__ import run
from trainer.batching import resolve as batching_of
from trainer.config import RunConfig
from trainer.errors import UserError

Worlds = Callable[..., Path]


def prepare(*words: object, world: int = 2) -> operator.Prepared:
    return operator.prepare(options.parse([str(word) for word in words]), world=world, on_gpu=False)


def begin(run: Path, data: Path, *words: object) -> operator.Prepared:
    """A run that was started and has ended before it was finished, as its ranks leave it."""
    prepared = prepare("--run", run, "--data", data, *words)
    fingerprint = json.loads((data / "index.json").read_text())["fingerprint"]
    run_directory.write_json(run / run_directory.ENVIRONMENT, {"fingerprint": fingerprint, "data": str(data)})
    prepared.lock.release()
    return prepared


def test_prepare_fills_in_what_the_data_say(tmp_path: Path, make_world: Worlds) -> None:
    prepared = prepare("--run", tmp_path / "run", "--data", make_world(), "--data.max_length", 7)
    model = options.load(tmp_path / "run" / run_directory.CONFIG).model
    assert model == prepared.config.model
    assert (model.videos, model.frames, model.width, model.max_length) == (24, 2, 4, 7)
    assert str(prepared.batching) == "batch 128 = micro-batch 32 x accumulation 2 x ranks 2"
    with pytest.raises(UserError, match="in use by process"):
        run_directory.claim(tmp_path / "run", resume=True)
    prepared.lock.release()


def test_a_run_names_itself(tmp_path: Path, make_world: Worlds, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (prepare("--preset", "study", "--data", make_world()) for _ in range(2))
    assert first.run_dir != second.run_dir
    assert first.run_dir.parent == tmp_path / "runs" and "study" in first.run_dir.name


def test_the_default_world_is_made_once(tmp_path: Path, monkeypatch) -> None:
    made = []

    def count(path: Path) -> None:
        made.append(path)
        path.mkdir(parents=True)

    monkeypatch.setattr("shards.synth.synthesise", count)
    for _ in range(2):
        operator.make_default_data(tmp_path / "data" / "default")
    assert len(made) == 1


def test_relative_data_are_found_from_anywhere(tmp_path: Path, make_world: Worlds, monkeypatch) -> None:
    monkeypatch.chdir(make_world().parent)
    prepared = prepare("--run", tmp_path / "run", "--data", make_world().name)
    assert options.load(prepared.run_dir / run_directory.CONFIG).data.path == str(make_world())


def test_resume_takes_the_runs_own_configuration(tmp_path: Path, make_world: Worlds) -> None:
    begin(tmp_path / "run", make_world(), "--model.dim", 32, "--train.lr", 0.5, "--preset", "study")
    again = prepare("--run", tmp_path / "run", "--resume", "--train.lr", 0.25)
    assert (again.config.model.dim, again.config.train.lr, again.config.preset) == (32, 0.25, "study")
    assert options.load(tmp_path / "run" / run_directory.CONFIG).train.lr == 0.25
    assert not again.finished


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model.dim", "32"], "--model.dim is 64 in .*/run, not 32: a run keeps it for its life"),
        (["--model.tcd.steps", "3"], "--model.tcd.steps is 10"),
        (["--data.max_length", "9"], "--data.max_length is 20"),
        (["--seed", "9"], "--seed is 0"),
        (["--train.batch_size", "64"], "--train.batch_size is 128"),
    ],
)
def test_resume_refuses_another_run(words: list[str], line: str, tmp_path: Path, make_world: Worlds) -> None:
    begin(tmp_path / "run", make_world())
    before = (tmp_path / "run" / run_directory.CONFIG).read_text()
    with pytest.raises(UserError, match=line):
        prepare("--run", tmp_path / "run", "--resume", *words)
    assert (tmp_path / "run" / run_directory.CONFIG).read_text() == before
    prepare("--run", tmp_path / "run", "--resume").lock.release()  # the refused start holds no lock


def test_resume_refuses_other_data_and_takes_the_same_elsewhere(tmp_path: Path, make_world: Worlds) -> None:
    begin(tmp_path / "run", make_world())
    with pytest.raises(UserError, match="was made on .*/seed-0 .*: .*/seed-1 has other content"):
        prepare("--run", tmp_path / "run", "--resume", "--data", make_world(1))
    shutil.copytree(make_world(), tmp_path / "moved")
    prepare("--run", tmp_path / "run", "--resume", "--data", tmp_path / "moved").lock.release()


def test_a_finished_run_is_left_alone(tmp_path: Path, make_world: Worlds, capsys) -> None:
    begin(tmp_path / "run", make_world())
    run_directory.write_json(tmp_path / "run" / run_directory.RESULTS, {})
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").glob("[!.]*"))
    assert run(["--run", str(tmp_path / "run"), "--resume"]) == 0
    assert "run is finished: its results are in" in capsys.readouterr().out
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").glob("[!.]*")) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--train.lrr", "1"], "unknown option '--train.lrr'; did you mean --train.lr?"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--run", "/proc/1/run"], "run directory /proc/1/run cannot be made"),
        (["--run", "TMP"], "is not empty and holds no run"),
        (["--num_gpus", "3"], "--train.batch_size 128 is not a micro-batch x a whole accumulation x 3 ranks"),
        (["--num_gpus", "2", "--train.micro_batch_size", "30"], "the nearest that is: 120 or 180"),
        (["--num_gpus", "-1"], "--num_gpus must be at least 1"),
        (["--train.max_epochs", "0"], "--train.max_epochs must be at least 1, not 0"),
        (["--train.lr", "0"], "--train.lr must be above 0"),
        (["--seed", "4294967296"], "--seed must be below 2^32"),
        (["--data.window_stride", "99"], "--data.window_stride 99: stride: found 99"),
        (["--model.dim", "7"], "model.dim is 7, expected an even number"),
        (["--train.zero_stage", "4"], "--train.zero_stage must be 0, 1, 2 or 3, not 4"),
        (["--init_from", "/nowhere"], "--init_from: /nowhere holds no run"),
        (["--deepspeed_config", "/nowhere"], "--deepspeed_config /nowhere cannot be read"),
    ],
)
def test_mistakes_end_with_one_line(words: list[str], line: str, tmp_path: Path, make_world, capsys) -> None:
    (tmp_path / "file").write_text("")
    words = [word.replace("TMP", str(tmp_path)) for word in words]
    defaults = {"--data": str(make_world()), "--run": str(tmp_path / "run")}
    given = [*words, *(word for pair in defaults.items() if pair[0] not in words for word in pair)]
    assert run(given) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and line in printed
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_samples_of_an_epoch_are_the_windows_of_the_plan(make_world: Worlds) -> None:
    index = Index.load(make_world())
    lengths = [pair for shard in index.sequence_shards for pair in shard.train_lengths]
    expected = sum(len(windows(length, 5, 2)) * users for length, users in lengths)
    assert dry_run.epoch_samples(index, 5, 2) == expected > 0


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
    with pytest.raises(UserError, match="short holds nothing to train on: no user has two videos"):
        prepare("--run", tmp_path / "run", "--data", tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_dry_run_says_everything_and_leaves_nothing(
    tmp_path: Path, make_world: Worlds, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--dry_run",
        "--num_gpus",
        "2",
        "--train.zero_stage",
        "2",
        "--train.batch_size",
        "64",
        "--train.micro_batch_size",
        "8",
    ]
    assert run([*words, "--data", str(make_world())]) == 0
    printed = capsys.readouterr().out
    assert "batch 64 = micro-batch 8 x accumulation 4 x ranks 2" in printed
    assert "micro_batch_size: 8" in printed and "an epoch" in printed
    for part in ("parameters", "gradients", "optimiser", "activations", "feature table"):
        assert part in printed
    assert os.listdir(tmp_path) == []


def test_parameters_are_counted_exactly() -> None:
    config = RunConfig().model
    config.videos, config.frames, config.width = 777, 3, 5
    assert dry_run.parameters(config) == sum(p.numel() for p in MealRec(config).parameters())


def test_memory_is_divided_by_the_stage(make_world: Worlds) -> None:
    config = RunConfig()
    index, batching = Index.load(make_world()), batching_of(512, 0, 4)
    by_stage = [
        dry_run.memory(config, {"zero_optimization": {"stage": stage}}, batching, index, 1000)
        for stage in range(4)
    ]
    assert [m.optimizer for m in by_stage] == [8000, 3000, 3000, 3000]
    assert [m.gradients for m in by_stage] == [4000, 4000, 1000, 1000]
    assert [m.parameters for m in by_stage] == [4000, 4000, 4000, 1000]
    table = 25 * config.model.dim
    assert [m.passing for m in by_stage] == [table * each for each in (4, 4, 7, 16)]
    assert by_stage[0].features == 25 * 2 * 4 * 2


def join(asked: RunConfig, *, is_main: bool, said: list) -> RunConfig:
    """One rank's part of `operator.join`; what rank 0 broadcasts lies in `said`."""

    def broadcast(value: object) -> object:
        if is_main:
            said[:] = [value]
        return said[0]

    return operator.join(asked, is_main=is_main, world=2, on_gpu=False, broadcast=broadcast)


def test_ranks_without_an_operator_agree_on_a_run(tmp_path: Path, make_world: Worlds, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(run_directory.RUN_VARIABLE, raising=False)
    said: list = []
    words = ["--data", str(make_world()), "--train.lr", "0.5"]
    first, lock = join(options.parse(words), is_main=True, said=said)
    second, none = join(options.parse(words), is_main=False, said=said)
    assert first == second and first.train.lr == 0.5 and first.model.videos == 24 and none is None
    assert Path(first.run.dir).parent == tmp_path / "runs"
    with pytest.raises(UserError, match="in use"):
        run_directory.claim(first.run.dir, resume=True)
    lock.release()
    with pytest.raises(UserError, match="holds a run already"):
        join(options.parse([*words, "--run", first.run.dir]), is_main=True, said=said)
    with pytest.raises(UserError, match="holds a run already"):
        join(options.parse([*words, "--run", first.run.dir]), is_main=False, said=said)


def test_ranks_of_an_operator_join_its_run(tmp_path: Path, make_world: Worlds, monkeypatch) -> None:
    prepared = prepare("--run", tmp_path / "run", "--data", make_world(), "--model.dim", 32)
    monkeypatch.setenv(run_directory.RUN_VARIABLE, str(tmp_path / "run"))
    said: list = []
    config, lock = join(options.parse([]), is_main=True, said=said)
    assert config.model.dim == 32 and config.run.dir == str(tmp_path / "run")
    assert lock.path.name == run_directory.WORKER_LOCK
    prepared.lock.release()


def test_ranks_of_a_machine(monkeypatch) -> None:
    assert [machine.ranks(0, 0), machine.ranks(3, 0)] == [min(2, machine.cores()), 3]
    assert [machine.ranks(0, 8), machine.ranks(2, 8)] == [8, 2]
    with pytest.raises(UserError, match="--num_gpus 9: this machine has 8 GPUs"):
        machine.ranks(9, 8)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert machine.ranks(0, 0) == 1


def test_help_is_quick(root: Path) -> None:
    """In seconds of this process alone, whatever else the machine does."""
    script = (
        "import time, sys; from trainer.__main__ import run\ntry: run(['--help'])\nexcept SystemExit: pass\n"
    )
    script += "print(time.process_time(), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert float(done.stderr) < 1.0
