"""The run directory: names, locks, atomic files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer import run_directory
from trainer.errors import UserError

HOLD = """
import sys, time
from trainer import run_directory
path, who = sys.argv[1:]
lock = run_directory.claim(path, resume=False) if who == "operator" else run_directory.rank_lock(path)
print("held", flush=True)
time.sleep(60)
"""


def hold(path: Path, who: str) -> subprocess.Popen:
    """A process that holds the lock of `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), who], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_refuses_others_and_dies_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = hold(run, "operator")
    try:
        with pytest.raises(UserError, match=f"{run} is in use by process {holder.pid} on "):
            run_directory.claim(run, resume=False)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    run_directory.claim(run, resume=False).release()


def test_ranks_of_a_killed_operator_are_waited_for(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    run_directory.claim(run, resume=False).release()
    holder = hold(run, "rank")
    monkeypatch.setattr(run_directory, "RANKS_END_WITHIN", 0.3)
    try:
        with pytest.raises(UserError, match="is in use by process"):
            run_directory.claim(run, resume=False)
    finally:
        holder.kill()
        holder.wait()
    run_directory.claim(run, resume=False).release()


def test_a_run_is_never_taken_over_unasked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    lock = run_directory.claim(run, resume=False)
    (run / run_directory.CONFIG).write_text("seed: 1\n")
    lock.release()
    with pytest.raises(UserError, match="holds a run already: continue it with --resume"):
        run_directory.claim(run, resume=False)
    run_directory.claim(run, resume=True).release()
    assert (run / run_directory.CONFIG).read_text() == "seed: 1\n"


def test_a_start_that_failed_early_leaves_a_directory_that_can_be_used(tmp_path: Path) -> None:
    run_directory.claim(tmp_path / "run", resume=False).release()
    run_directory.claim(tmp_path / "run", resume=False).release()


def test_other_directories_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run_directory.claim(tmp_path, resume=False)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(UserError, match=r"holds no run: no config.yaml there"):
        run_directory.claim(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_an_unwritable_place_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run directory .*/file/run cannot be made: Not a directory"):
        run_directory.claim(tmp_path / "file" / "run", resume=False)
    with pytest.raises(UserError, match="run directory /proc/1/run cannot be made"):
        run_directory.claim("/proc/1/run", resume=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_gets_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        run_directory.claim(tmp_path, resume=False)


def test_new_names_do_not_meet(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        name = run_directory.new_name("a/b c", tmp_path)
        assert name.parent == tmp_path and name.name.split("-", 2)[2].startswith("a_b_c")
        name.mkdir()
        names.add(name)
    assert len(names) == 3


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    files.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert files.read_json(file) == {"a": 1} and os.listdir(tmp_path) == ["results.json"]
    file.write_text("{")
    with pytest.raises(UserError, match="results.json is not JSON"):
        files.read_json(file)
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        files.write_text(tmp_path / "none" / "file", "")


def test_a_write_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that rewrites a file all the time is killed at some moment: the file is whole."""
    file = tmp_path / "results.json"
    script = "import sys; from trainer import rundir\n"
    script += "while True: files.write_json(sys.argv[1], list(range(20000)))"
    writer = subprocess.Popen([sys.executable, "-c", script, str(file)])
    while not file.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    writer.kill()
    writer.wait()
    assert files.read_json(file) == list(range(20000))


def test_a_mistake_is_noted_and_taken_once(tmp_path: Path) -> None:
    assert run_directory.take_mistake(tmp_path) is None
    run_directory.note_mistake(tmp_path, "shard 3 is truncated")
    assert run_directory.take_mistake(tmp_path) == "shard 3 is truncated"
    assert run_directory.take_mistake(tmp_path) is None
