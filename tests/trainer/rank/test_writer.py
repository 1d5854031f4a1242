"""Files are written in a thread, from copies, and what goes wrong there is said."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from shards import file_sha256
from trainer.errors import UserError
from trainer.rank.writer import Writer, to_host

TOO_LARGE = """
import resource, sys, torch
from pathlib import Path
from trainer import files
from trainer.errors import Unwritable
from trainer.rank.writer import Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
writer, tensors, path = Writer(), {"x": torch.zeros(100_000)}, Path(sys.argv[1])
writer.save(tensors, str(path)) if path.suffix == ".pt" else writer.save_weights(tensors, path)
writer.start(lambda written: print("done"))
try:
    with files.writing(path.parent):  # as a run does
        writer.wait()
except Unwritable as error:
    print(error)
    assert not writer.wait(), "an error is raised once, and the work is still not done"
"""


def test_what_is_written_is_the_state_of_the_call(tmp_path: Path) -> None:
    writer, table, written = Writer(), torch.arange(6.0), {}
    state = {"module": OrderedDict(table=table, view=table[2:4]), "shapes": [table.shape], "step": 3}
    writer.save(state, str(tmp_path / "a.pt"))
    writer.save_weights({"table": table.clone()}, tmp_path / "b.safetensors")
    table += 1
    state["step"] = 4
    writer.start(written.update)
    assert writer.wait()
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert saved["module"]["table"].tolist() == [0, 1, 2, 3, 4, 5]
    assert saved["module"]["view"].tolist() == [2, 3]
    assert saved["shapes"] == [torch.Size([6])] and saved["step"] == 3
    assert written == {path.name: file_sha256(path) for path in tmp_path.iterdir()} and len(written) == 2


def test_a_copy_shares_nothing() -> None:
    state = {"a": [torch.ones(2), (torch.zeros(1), {"list": [1]})]}
    copy = to_host(state)
    state["a"][0].zero_()
    state["a"][1][1]["list"].append(2)
    assert copy["a"][0].tolist() == [1, 1] and copy["a"][1][1] == {"list": [1]}


def test_the_caller_goes_on_while_files_are_written(tmp_path: Path) -> None:
    writer, go_on = Writer(), threading.Event()
    writer.save({}, str(tmp_path / "a.pt"))
    writer.start(lambda written: go_on.wait(20))
    assert not writer.wait(0.05)
    writer.check()
    go_on.set()
    assert writer.wait()


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
def test_a_full_disk_is_one_line(tmp_path: Path, name: str) -> None:
    """A limit on a file's size stands for the disk, which is full at some byte in the middle of a file."""
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(tmp_path / name)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path} cannot be written: File too large\n"


def test_other_errors_are_not_lost(tmp_path: Path) -> None:
    def fail(written: dict[str, str]) -> None:
        raise ZeroDivisionError("in the thread")

    writer = Writer()
    writer.start(fail)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        writer.wait()
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        writer.save({}, str(tmp_path / "no" / "a.pt"))
        writer.start(lambda written: None)
        writer.wait()
