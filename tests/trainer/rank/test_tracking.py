"""Trackers: their own libraries, offline, get every number once; whatever fails, training goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.trainer import runs
from trainer import files, options, trackers
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.rank.callbacks import tracking
from trainer.rank.callbacks.tracker import TrackedRun
from trainer.rank.callbacks.tracking import Tracking
from trainer.rank.loop import Loop, Progress
from trainer.source import ROOT

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
)

RESULTS = {"test": {"ndcg@10": 0.25}, "oracle": None, "best_step": 4, "stopped": None, "fingerprint": "abc"}
Curves = dict[str, list[tuple[int, float]]]


def train(tracked: Tracking, first: int, last: int, *, fails: bool = False) -> None:
    """In place of training: a loss at each step, an evaluation at each even one, results at the end."""
    loop = Loop(None, None, [tracked], Progress(step=first - 1), 1)
    loop.tell("on_start")
    for step in range(first, last + 1):
        loop.tell("on_log", {"step": step, "epoch": 1, "samples": 4 * step, "loss": 8.0 / step})
        if step % 2 == 0:
            record = {"step": step, "epoch": 1, "samples": 4 * step, "split": "valid"}
            record |= {"ndcg@10": step / 10, "guards": {"tcd_x": 1.5}}
            loop.tell("on_evaluation", record)
    if fails:
        loop.tell("on_error", RuntimeError("a loss that is not finite"))
    else:
        loop.tell("on_evaluation", {"step": 4, "split": "test", "ndcg@10": 0.25})
        loop.tell("on_results", RESULTS)


TRUTH: Curves = {
    "train/loss": [(step, 8.0 / step) for step in range(1, 7)],
    "valid/ndcg@10": [(step, step / 10) for step in (2, 4, 6)],
    "valid/guards/tcd_x": [(step, 1.5) for step in (2, 4, 6)],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as rank 0 finds it."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    config = RunConfig()
    config.data.path, config.train.lr = "https://me:secret@example.org/data", 0.003
    options.save_run(folder, config)
    files.write_json(folder / "environment.json", {"fingerprint": "sha256:12", "devices": [{"rank": 0}]})
    return folder


class Slow:
    """A tracker whose server answers when it is told to."""

    def __init__(self) -> None:
        self.answers, self.seen, self.began = True, [], 0  # type: bool, list[Any], int
        self.hangs = threading.Event()

    def begin(self, run: TrackedRun) -> tuple[str, dict[str, int]]:
        self._ask()
        self.began += 1
        return "7", {"train": 0, "valid": 0}

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._ask()
        self.seen.append((step, numbers))

    def end(self, results: dict[str, Any] | None) -> None:
        self._ask()
        self.seen.append(results)

    def _ask(self) -> None:
        if not self.answers:
            raise ConnectionError("no route\nto host")


def test_what_could_not_be_sent_is_sent_later_and_said_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "PAUSE", 0.0)
    slow = Slow()
    slow.answers = False
    tracked = Tracking("slow", slow, run, "")
    loop = Loop(None, None, [tracked], Progress(), 1)
    loop.tell("on_start")
    for step in (1, 2, 3):
        loop.tell("on_log", {"step": step, "loss": 1.0})
    while tracked._arrived.qsize():
        time.sleep(0.01)
    assert slow.seen == [] and slow.began == 0
    slow.answers = True
    loop.tell("on_log", {"step": 4, "loss": 1.0})
    loop.tell("on_results", RESULTS)
    *steps, results = slow.seen
    assert [step for step, _ in steps] == [1, 2, 3, 4] and slow.began == 1
    assert results == {"test/ndcg@10": 0.25, "best_step": 4, "fingerprint": "abc"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: slow: no route to host; training goes on")


def test_a_tracker_that_never_answers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = Slow()
    slow.answers = False
    train(Tracking("slow", slow, run, ""), 1, 6)
    first, last = capsys.readouterr().err.splitlines()
    assert "training goes on" in first
    assert last == "warning: slow: has not got all of this run; metrics.jsonl has"


def test_a_tracker_that_hangs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 0.2)
    slow = Slow()
    monkeypatch.setattr(slow, "_ask", slow.hangs.wait)
    started = time.monotonic()
    train(Tracking("slow", slow, run, ""), 1, 6)
    assert time.monotonic() - started < 5
    assert "has not got all of this run" in capsys.readouterr().err
    slow.hangs.set()


@needs_mlflow
def test_mlflow_has_every_number_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails after step 5 and continues after step 3."""
    pytest.importorskip("sqlalchemy")
    address = f"sqlite:///{run.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "FAILED_SECONDS", 100.0)  # the tables of the file are made first
    train(tracking.make("mlflow", run, ""), 1, 5, fails=True)
    from mlflow import MlflowClient

    client, known = MlflowClient(address), json.loads((run / "tracked.json").read_text())["mlflow"]
    assert client.get_run(known).info.status == "FAILED"
    train(tracking.make("mlflow", run, ""), 4, 6)

    (experiment,) = client.search_experiments(filter_string="name = 'mealrec'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (known, "first", "FINISHED")
    for name, curve in TRUTH.items():
        history = client.get_metric_history(known, name.replace("@", "_at_"))
        assert [(point.step, point.value) for point in history] == curve, name
    assert found.data.params["train.lr"] == "0.003"
    assert found.data.params["data.path"] == "https://***@example.org/data"
    assert found.data.tags["fingerprint"] == "sha256:12" and found.data.tags["run"] == str(run)
    assert found.data.metrics["results/test/ndcg_at_10"] == 0.25
    assert found.data.tags["results/fingerprint"] == "abc"
    assert "warning" not in capsys.readouterr().err


@needs_mlflow
def test_mlflow_groups_a_sweep(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy")
    address = f"sqlite:///{run.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    train(tracking.make("mlflow", run, "runs/lr"), 1, 6)
    client = MlflowClient(address)
    names = {e.experiment_id: e.name for e in client.search_experiments(ViewType.ALL)}
    (found,) = client.search_runs(list(names))
    assert names[found.info.experiment_id] == "mealrec/runs/lr"


@needs_wandb
def test_wandb_has_every_number_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tracking.make("wandb", run, "runs/lr"), 1, 6)
    (written,) = read_wandb(run)
    assert written["name"] == "first" and written["group"] == "runs/lr" and written["project"] == "mealrec"
    assert written["id"] == json.loads((run / "tracked.json").read_text())["wandb"]
    assert written["curves"] == TRUTH and written["exit"] == 0
    assert written["config"]["train"]["lr"] == 0.003
    assert written["config"]["environment"]["fingerprint"] == "sha256:12"
    assert written["summary"]["results/test/ndcg@10"] == 0.25
    assert b"secret" not in b"".join(file.read_bytes() for file in run.rglob("*.wandb"))


@needs_wandb
def test_wandb_continues_the_same_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tracking.make("wandb", run, ""), 1, 3, fails=True)
    time.sleep(1)  # its folders are named by the second
    train(tracking.make("wandb", run, ""), 4, 6)
    first, second = sorted(read_wandb(run), key=lambda written: written["curves"]["train/loss"])
    assert first["id"] == second["id"] and (first["exit"], second["exit"]) == (1, 0)
    assert first["curves"]["train/loss"] + second["curves"]["train/loss"] == TRUTH["train/loss"]


@needs_wandb
def test_wandb_is_lost_in_mid_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its process, which writes and sends, is killed: nothing is raised, and one line says so."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "END_SECONDS", 5.0)
    tracked = tracking.make("wandb", run, "")
    loop = Loop(None, None, [tracked], Progress(), 1)
    loop.tell("on_start")
    loop.tell("on_log", {"step": 1, "loss": 1.0})
    while not (run / "tracked.json").is_file():
        time.sleep(0.05)
    (service,) = [child for child in psutil.Process().children() if "wandb" in child.name()]
    service.kill()
    service.wait()
    for step in (2, 3):
        loop.tell("on_log", {"step": step, "loss": 1.0})
    loop.tell("on_results", RESULTS)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: wandb: ")]
    assert said and sum("training goes on" in line for line in said) <= 1


@needs_wandb
@pytest.mark.slow
def test_a_run_of_two_ranks(workplace: Path, data: Path, cache: Path, monkeypatch: Any) -> None:
    """Rank 0 alone tracks, what it has is what metrics.jsonl has, and no loss changes."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain, tracked = workplace / "untracked", workplace / "tracked"
    settings = {"train__max_epochs": 1, "train__save_every_steps": 0}
    commands = [
        runs.arguments(plain, data, **settings),
        runs.arguments(tracked, data, train__track="wandb", **settings),
    ]
    assert runs.train_several(2, commands, cache) == [None, None]
    assert runs.losses(tracked) == runs.losses(plain)
    (written,) = read_wandb(tracked)
    assert written["curves"]["train/loss"] == [(line[0], line[1]) for line in runs.losses(tracked)]
    results = runs.results(tracked)
    assert written["summary"]["results/test/ndcg@10"] == results["test"]["ndcg@10"]
    assert written["config"]["environment"]["fingerprint"] == results["fingerprint"]
    saved = yaml.safe_load((tracked / "config.yaml").read_text())
    assert {name: written["config"][name] for name in saved} == saved


def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name, such as wandb writes, is no library."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(UserError) as error:
            trackers.check(name)
        assert str(error.value) == (
            f'--train.track {name} needs {name}, not installed: pip install "mealrec[{name}]"'
        )


@needs_wandb
def test_without_a_login(tmp_path: Path, data: Path) -> None:
    """It is refused before anything is started, on a terminal, too: a rank could not answer a question."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = ["-m", "trainer", "--train.track", "wandb", "--data", str(data), "--run", str(tmp_path / "run")]
    ended = subprocess.run(
        [sys.executable, *command],
        env={**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and not (tmp_path / "run").exists()
    line = ended.stderr.strip().splitlines()[-1]
    assert line == "error: --train.track wandb: no login: run `wandb login`, or set WANDB_MODE=offline"


def read_wandb(run: Path) -> list[dict[str, Any]]:
    """What Weights & Biases has written offline, a dict for each of its files.

    The process of its own that writes them closes a file some time after `finish` has returned.
    """
    found = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    until = time.monotonic() + 60
    while True:
        written = [read_file(file) for file in found]
        if all(told["exit"] is not None for told in written) or time.monotonic() > until:
            return written
        time.sleep(0.05)


def read_file(file: Path) -> dict[str, Any]:
    """A file's records, which are in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    told: dict[str, Any] = {"curves": {}, "config": {}, "summary": {}, "exit": None}
    for data in blocks(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told |= {"id": record.run.run_id, "name": record.run.display_name}
            told |= {"group": record.run.run_group, "project": record.run.project}
            told["config"] |= values(record.run.config.update)
        elif kind == "history":
            row = values(record.history.item)
            for name in TRUTH.keys() & row.keys():
                step = row[f"{name.split('/')[0]}/step"]
                told["curves"].setdefault(name, []).append((step, row[name]))
        elif kind == "summary":
            told["summary"] |= values(record.summary.update)
        elif kind == "exit":
            told["exit"] = record.exit.exit_code
    return told


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def blocks(content: bytes, header: int = 7, size: int = 32768) -> Iterator[bytes]:
    """The records of a file: after a header, pieces of them, none across the end of a block."""
    at, whole, (full, last) = header, b"", (1, 4)
    while at + 7 <= len(content):
        left = size - at % size
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if at + 7 + length > len(content):  # it is still being written
            return
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (full, last):
            yield whole
            whole = b""
