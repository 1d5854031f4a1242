"""Real sweeps on their own Ray, in a network namespace with loopback alone where that is allowed."""

import contextlib
import csv
import json
import os
import signal
import time

import psutil
import pytest
import yaml

from shards import synthesise
from tests.trainer import runs
from tests.tune import commands
from tests.tune.commands import wait

# Nothing is learned but at the rate of a point, and nothing is known before.
ONE_RATE = {"train.table_lr": 0, "train.ema": 0, "train.decay": "constant", "model.item_bias": False}
FIXED = {
    "preset": "study",
    "model.dim": 16,
    "train.max_epochs": 3,
    "train.batch_size": 32,
    "train.log_every": 1,
}
SPACE = {"search": "grid", "space": {"model.tcd.loss_weight": [0.5, 2.0, 8.0]}, "fixed": FIXED}

pytestmark = pytest.mark.slow


def start(folder, space, data, cache, *more):
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(space))
    arguments = ["sweep", file, "--data", data, "--out", folder / "out", *more]
    return commands.start(arguments, folder, cache)


def started_with(cache):
    """What a sweep with this cache has started: Ray's processes inherit its environment."""
    found = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("MEALREC_CACHE") == str(cache) and process.info["status"] != "zombie":
                found.append(process.info)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder, make_data):
    """The output of a sweep that is killed once a point is finished, and resumed."""
    data, cache = make_data(), folder / "cache"
    process = start(folder, {**SPACE, "max_concurrent": 1}, data, cache)
    deadline = time.monotonic() + 300
    while not list(folder.glob("out/runs/*/results.json")) and process.poll() is None:
        assert time.monotonic() < deadline, "no point ended in five minutes"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while left := started_with(cache):
        assert time.monotonic() < deadline, f"of the killed sweep there are left: {left}"
        time.sleep(0.2)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/*/results.json")}
    assert 0 < len(before) < 3
    output = wait(start(folder, {**SPACE, "max_concurrent": 2}, data, cache, "--resume"))
    assert f"3 points, {3 - len(before)} to run" in output
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    return output


def test_a_killed_sweep_resumes_with_each_point_once(folder, swept):
    results = sorted(folder.glob("out/runs/*/results.json"))
    assert len(results) == len(list(folder.glob("out/runs/*"))) == 3
    rows = (folder / "out" / "results.csv").read_text().splitlines()
    assert len(rows) == 4 and all(",finished," in row for row in rows[1:])
    assert "3 finished" in swept and "tcd.loss_weight  seeds  valid ndcg@10  difference" in swept
    best, *others = csv.DictReader((folder / "out" / "ranked.csv").read_text().splitlines())
    assert best["difference"] == "" and len(others) == 2
    assert all(float(row["difference low"]) <= float(row["difference"]) <= 0 for row in others)


def test_trials_do_not_disturb_each_other(folder, swept, make_data):
    """The losses of trials that ran beside others are those of the trainer alone."""
    for path in folder.glob("out/runs/*"):
        config = yaml.safe_load((path / "config.yaml").read_text())
        arguments = [text for name, value in FIXED.items() for text in (f"--{name}", str(value))]
        weight = str(config["model"]["tcd"]["loss_weight"])
        arguments += ["--model.tcd.loss_weight", weight, "--data", str(make_data()), "--seed", "0"]
        run = folder / f"alone-{path.name}"
        assert runs.train_several(1, [["--run", str(run), *arguments]], folder / "cache") == [None]
        assert runs.losses(run) == runs.losses(path)


def test_mistakes_are_reported_before_anything_runs(folder, swept, make_data):
    data, cache = make_data(), folder / "cache"
    output = wait(start(folder, {**SPACE, "max_concurrent": 1}, data, cache), expected=2)
    assert "error:" in output and "holds a sweep already" in output
    other = folder / "other"
    other.mkdir()
    output = wait(start(other, {**SPACE, "gpus_per_trial": 99}, data, cache), expected=2)
    assert "gpus_per_trial is 99: the cluster has" in output and "Traceback" not in output


def test_a_failed_trial_is_recorded_with_its_cause(tmp_path, make_data, folder):
    """A rate that makes the loss overflow: the others finish, nothing is lost, the exit code is 1."""
    space = {
        "search": "grid",
        "space": {"train.lr": [0.001, 1e30]},
        "fixed": FIXED | {"train.warmup_steps": 1},
    }
    output = wait(start(tmp_path, {**space, "max_concurrent": 2}, make_data(), folder / "cache"), expected=1)
    (note,) = (json.loads(path.read_text()) for path in (tmp_path / "out" / "ended").glob("*.json"))
    assert note["status"] == "failed" and "step" in note["cause"]
    assert "1 finished, 1 failed" in output and note["cause"] in output


def test_asha_stops_what_is_behind_and_frees_its_resources(tmp_path):
    """Points that cannot learn, after one that does, are stopped.

    A trial takes two cores, so that on two cores resources that were not freed would leave none for the next.
    """
    synthesise(tmp_path / "data", users=400, videos=120, frames=2, width=4, seed=1)
    space = {
        "search": "asha",
        "space": {"model.tcd.steps": list(range(2, 12)), "train.lr": [1e-9, 0.01]},
        "fixed": FIXED | ONE_RATE | {"train.batch_size": 16, "train.warmup_steps": 1, "train.max_epochs": 10},
        "trials": 6,
        "workers_per_trial": 2,
    }
    output = wait(start(tmp_path, space, tmp_path / "data", tmp_path / "cache", "--max-concurrent", "1"))
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    learned = next(at for at, row in enumerate(rows) if row["train.lr"] == "0.01")
    assert rows[learned]["status"] == "finished" and float(rows[learned]["test ndcg@10"]) > 0.1
    behind = [row for row in rows[learned:] if row["train.lr"] == "1e-09"]
    assert behind and {row["status"] for row in behind} == {"stopped"}
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert len(stopped) > 1 and all(row["test ndcg@10"] == "" for row in stopped)
    again = wait(start(tmp_path, space, tmp_path / "data", tmp_path / "cache", "--resume"))
    assert f"{len(rows)} points, 0 to run" in again and f"{len(stopped)} stopped" in output
