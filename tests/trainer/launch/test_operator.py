"""The operator's command line: one clear line for each mistake, and nothing is started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import files, options, run_directory
from trainer.__main__ import run
from trainer.prepare import prepare

MakeData = Callable[..., Path]


def test_a_finished_run_is_left_alone(tmp_path: Path, make_data: MakeData, capsys) -> None:
    asked = options.parse(["--run", str(tmp_path / "run"), "--data", str(make_data())])
    prepare(asked, world_size=2, on_gpu=False).lock.release()
    files.write_json(tmp_path / "run" / run_directory.RESULTS, {})
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").glob("[!.]*"))
    assert run(["--run", str(tmp_path / "run"), "--resume"]) == 0
    assert "run is finished: its results are in" in capsys.readouterr().out
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").glob("[!.]*")) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--train.lrr", "1"], "unknown option '--train.lrr'; did you mean --train.lr?"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--run", "/proc/1/run"], "run directory /proc/1/run cannot be made"),
        (["--run", "/" + "a" * 300], "/aaaa"),
        (["--run", "/x" * 2000], "... is 4000 characters long: the file system takes no such path"),
        (["--data", "/" + "a" * 300], "... is 301 characters long: the file system takes no such path"),
        (["--init_from", "/x" * 3000], "characters long: the file system takes no such path"),
        (["--config", "/x" * 3000], "configuration file /x"),
        (["--run", "TMP"], "is not empty and holds no run"),
        (["--num_gpus", "3"], "--train.batch_size 128 is not a micro-batch x a whole accumulation x 3 ranks"),
        (["--num_gpus", "2", "--train.micro_batch_size", "30"], "the nearest that is: 120 or 180"),
        (["--num_gpus", "-1"], "--num_gpus must be at least 1"),
        (["--train.max_epochs", "0"], "--train.max_epochs must be at least 1, not 0"),
        (["--train.lr", "0"], "--train.lr must be above 0"),
        (["--train.ema", "1"], "--train.ema must be below 1, not 1.0"),
        (["--train.table_lr", "-1"], "--train.table_lr must be at least 0, not -1.0"),
        (["--seed", "4294967296"], "--seed must be below 2^32"),
        (["--data.window_stride", "99"], "--data.window_stride 99: stride: found 99"),
        (["--model.dim", "7"], "model.dim is 7, expected an even number"),
        (["--train.zero_stage", "4"], "--train.zero_stage must be 0, 1, 2 or 3, not 4"),
        (["--init_from", "/nowhere"], "--init_from: /nowhere holds no run"),
        (["--deepspeed_config", "/nowhere"], "--deepspeed_config /nowhere cannot be read"),
    ],
)
def test_mistakes_end_with_one_line(
    arguments: list[str], line: str, tmp_path: Path, make_data, capsys
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [argument.replace("TMP", str(tmp_path)) for argument in arguments]
    defaults = {"--data": str(make_data()), "--run": str(tmp_path / "run")}
    given = [
        *arguments,
        *(argument for pair in defaults.items() if pair[0] not in arguments for argument in pair),
    ]
    assert run(given) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and line in printed
    assert sorted(os.listdir(tmp_path)) == ["file"]


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
