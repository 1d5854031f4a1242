"""`bench.steps` and `bench.gpu_check` without a GPU: a step on the CPU, rows, limits, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_check, report, steps
from shards import synthesise

PASSED = 'print(\'{"backbone": "sasrec", "ZeRO": 1, "result": "passed", "ms/step": 2.5}\', flush=True)'


def test_a_row_of_the_cpu(tmp_path: Path) -> None:
    """In a process of its own, as the operators of other tests are no ranks."""
    synthesise(tmp_path / "data", users=60, videos=30, frames=2, width=8, seed=1)
    small = ("--train.batch_size", "16", "--model.dim", "16", "--data.cache_dir", str(tmp_path / "cache"))
    code = f"""
import json
from pathlib import Path
from bench import steps
steps.WARM_UP, steps.STEPS = 1, 2
steps.ours.choose_port()
print(json.dumps(steps.steps("sasrec", 1, Path({str(tmp_path / "data")!r}), *{small})))
"""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    cells = json.loads(done.stdout.splitlines()[-1])
    assert cells["ms/step"] > 0 and 1 < cells["loss"] < 20 and set(cells) < set(steps.COLUMNS)


def test_an_error_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str], one_rank: None) -> None:
    row = steps.tried("sasrec", 0, tmp_path / "nothing")
    assert row["backbone"] == "sasrec" and row["ZeRO"] == 0 and "nothing" in row["result"]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("then", "seconds", "result"),
    [("sys.exit(3)", 20, "exit code 3"), ("time.sleep(60)", 2, "out of time")],
)
def test_a_stage_that_ends_early_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, seconds: float, result: str
) -> None:
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\nprint('a line of DeepSpeed')\n{PASSED}\n{then}\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    first, second = steps.in_a_process(("sasrec", "gru4rec"), 1, tmp_path, "cpu", seconds)
    assert first["result"] == "passed" and first["ms/step"] == 2.5
    assert second == {"backbone": "gru4rec", "ZeRO": 1, "result": result}


def test_the_table_has_all_rows_and_the_exit_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "make_data", lambda folder: folder)
    results = {0: "passed", 3: "out of time"}

    def process(backbones: list[str], stage: int, *_: object) -> list[dict[str, object]]:
        return [{"backbone": name, "ZeRO": stage, "result": results[stage]} for name in backbones]

    monkeypatch.setattr(steps, "in_a_process", process)
    for stages, code in ((["0"], 0), (["0", "3"], 1)):
        out = ["--out", str(tmp_path), "--device", "cpu", "--backbones", "sasrec", "nextitnet"]
        monkeypatch.setattr(sys, "argv", [steps.__file__, *out, "--stages", *stages])
        assert steps.main() == code
    rows = report.read(tmp_path / "steps-cpu.csv")
    assert list(rows[0]) == list(steps.COLUMNS)
    assert [row["result"] for row in rows] == ["passed", "passed", "out of time", "out of time"]


def test_moments_are_counted_once() -> None:
    assert steps.covered([(5, 6), (0, 2), (1, 3), (1, 2), (8, 8)]) == 4
    assert steps.covered([]) == 0


def test_all_stages_of_the_gpu_check_have_limits_within_eight_minutes(tmp_path: Path) -> None:
    stages = [stage.split()[0] for stage, _ in gpu_check.commands(tmp_path)]
    assert sum(gpu_check.LIMITS[stage] for stage in stages) <= 480
    assert set(gpu_check.NEEDED) < set(stages) and set(stages) == set(gpu_check.LIMITS)


def test_a_stage_of_the_gpu_check_that_fails_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [
        ("doctor", [sys.executable, "-c", "raise SystemExit(2)"]),
        ("bench", [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]),
        ("profile", ["no-such-tool"]),
        ("steps", [sys.executable, "-c", "print('done')"]),
    ]
    monkeypatch.setattr(gpu_check, "LIMITS", {"doctor": 20, "bench": 1, "profile": 1, "steps": 20})
    monkeypatch.setattr(gpu_check, "commands", lambda out: commands)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    assert gpu_check.main() == 1
    rows = report.read(tmp_path / "gpu-check.csv")
    assert [row["result"] for row in rows] == ["failed (2)", "out of time", "refused", "passed"]
    assert rows[1]["said"] == "begun" and rows[3]["said"] == "done"
    monkeypatch.setattr(gpu_check, "commands", lambda out: [commands[0], commands[3]])
    assert gpu_check.main() == 0  # the state of the kernels is not needed
