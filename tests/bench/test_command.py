"""How a benchmark's command ends."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench.command import run_command

MISSING = ["--data", "nowhere"]
NAMES = ("baselines.__main__", "buckets", "evaluate", "increments", "memory", "new_videos", "operators")
COMMANDS = {name: MISSING for name in (*NAMES, "overhead", "sequence_knn", "train")}
COMMANDS |= {"profile": ["train", *MISSING]}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_data_set_that_is_not_there_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"bench.{name}", *COMMANDS[name]])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(f"bench.{name}").main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: nowhere: no such data set directory\n"


def test_other_errors_keep_their_traceback() -> None:
    def broken() -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        run_command(broken)
