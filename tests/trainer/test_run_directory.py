"""The run directory: names and locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


@pytest.mark.parametrize("room", [False, True])
def test_an_ending_is_noted_and_taken_once(room: bool, tmp_path: Path, monkeypatch) -> None:  # noqa: ANN001
    """In the operator's room for notes where this host has it; the run directory may be full."""
    run, notes = tmp_path / "run", tmp_path / "notes"
    (notes if room else run).mkdir()
    monkeypatch.setenv(run_directory.NOTES_VARIABLE, str(notes))
    assert run_directory.take_ending(run, notes) is None and not run_directory.ending_is_noted(run)
    ending = run_directory.Ending("shard 3 is truncated", 2)
    assert run_directory.note_ending(run, ending) and run_directory.ending_is_noted(run)
    assert run_directory.take_ending(run, notes) == ending
    assert run_directory.take_ending(run, notes) is None


def test_a_request_to_save_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    run_directory.ask_to_save(tmp_path)
    assert run_directory.save_is_asked(tmp_path)
    run_directory.forget_save_request(tmp_path)
    assert not run_directory.save_is_asked(tmp_path)


def test_a_start_removes_what_killed_processes_have_left(tmp_path: Path) -> None:
    run_directory.claim(tmp_path / "run", resume=False).release()
    (tmp_path / "run" / run_directory.CONFIG).touch()
    (tmp_path / "run" / run_directory.CHECKPOINTS).mkdir()
    left = [tmp_path / "run" / ".curves.png.partial-7", tmp_path / "run/checkpoints/.best.partial-12"]
    for path in left:
        path.touch()
    run_directory.claim(tmp_path / "run", resume=True).release()
    assert not any(path.exists() for path in left)
