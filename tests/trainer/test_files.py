"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer import files
from trainer.errors import UserError


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


def test_nothing_is_lost_by_setting_aside(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "a.json").write_text(text)
        files.set_aside(tmp_path / "a.json")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "damaged-a.json": "first",
        "damaged-a.json-2": "second",
    }


def test_a_write_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that rewrites a file all the time is killed at some moment: the file is whole."""
    file = tmp_path / "results.json"
    script = "import sys; from trainer import files\n"
    script += "while True: files.write_json(sys.argv[1], list(range(20000)))"
    writer = subprocess.Popen([sys.executable, "-c", script, str(file)])
    while not file.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    writer.kill()
    writer.wait()
    assert files.read_json(file) == list(range(20000))
