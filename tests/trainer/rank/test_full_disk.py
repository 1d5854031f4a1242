"""A disk that takes no more ends the run with one line, and what was saved before stays."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path

import psutil
import pytest

from tests.trainer import runs
from trainer import checkpoint_files, files
from trainer.errors import Unwritable, UserError


def test_a_full_disk_is_one_line(workplace: Path, data: Path, cache: Path) -> None:
    """A limit on the size of files, set in mid-training: the system calls fail as on a full disk."""
    run = workplace / "full"
    (rank,) = runs.start(1, ["-m", "trainer", *runs.arguments(run, data, train__max_epochs=50)], cache)
    while not (saved := checkpoint_files.complete(run / "checkpoints")):
        assert rank.poll() is None
        time.sleep(0.01)
    psutil.Process(rank.pid).rlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    _, errors = rank.communicate(timeout=60)
    assert rank.returncode == 1 and "Traceback" not in errors, errors
    said = [line for line in errors.splitlines() if "error: " in line]
    assert said == [f"error: {run} cannot be written: File too large"]
    assert checkpoint_files.newest(run / "checkpoints").name >= saved[-1].name


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_disk_are_told_from_others(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(Unwritable, match=f"cannot be written: {os.strerror(number)}"),
        files.writing(tmp_path),
    ):
        raise OSError(number, "found")
    with (
        pytest.raises(Unwritable, match=f"^{tmp_path} cannot be written: {os.strerror(number)}"),
        files.writing(tmp_path),
    ):
        raise UserError("a file cannot be written") from OSError(number, "found")
    with pytest.raises(UserError, match="a mistake"), files.writing(tmp_path):
        raise UserError("a mistake")
    with pytest.raises(FileNotFoundError), files.writing(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "found")
    with pytest.raises(RuntimeError, match="collective"), files.writing(tmp_path):
        raise RuntimeError("a collective has failed")
