"""No input raises anything but the errors of this project, hangs, or takes memory without bound.

`python -m tests.fuzz.run` goes on where these stop. $MEALREC_FUZZ multiplies the cases of the slow test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import attempt
from tests.fuzz.targets import TARGETS

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_inputs_that_found_a_fault(file, tmp_path):
    assert attempt(TARGETS[file.name.rpartition("-")[0]], file.read_bytes(), tmp_path) is None


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_read(name, tmp_path):
    """Else the targets would fuzz an error."""
    for content in TARGETS[name].seeds(tmp_path):
        TARGETS[name].read(content, tmp_path)


def test_the_cases_are_a_hundred_thousand():
    assert sum(target.cases for target in TARGETS.values()) >= 100_000


@pytest.mark.slow
def test_mutations(tmp_path, root):
    command = [sys.executable, "-m", "tests.fuzz.run", "--keep", str(tmp_path)]
    command += ["--cases", os.environ.get("MEALREC_FUZZ", "1")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
