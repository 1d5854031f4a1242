"""environment.sh: what it uses, and what it says where it cannot make an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = ("sh", "dirname")


def ask(root: Path, purpose: str, **environment: str) -> subprocess.CompletedProcess:
    command = [str(root / "environment.sh"), purpose]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def bare(root: Path, tmp_path: Path) -> Path:
    """A checkout without an environment, beside `bin`, where nothing but a shell is."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    for name in ("environment.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tree)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tree


def test_an_active_environment_is_used_as_it_is(bare: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path / "bin")])
    for purpose in ("run", "rank", "dev"):
        done = ask(bare, purpose, PATH=path)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).samefile(sys.executable)
    assert not (bare / ".venv").exists()


def test_without_python(bare: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin" / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # says that it is no Python 3.10
    old.chmod(0o755)
    done = ask(bare, "run", PATH=str(tmp_path / "bin"))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.startswith("error: no Python 3.10 or newer on the PATH") and done.stderr.count("\n") == 1
    )


def test_a_rank_installs_nothing(bare: Path, tmp_path: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    done = ask(bare, "rank", PATH=str(tmp_path / "bin"), PYTHON=str(base))
    assert done.returncode == 1 and "activate the environment that deepspeed was started from" in done.stderr
    assert not (bare / ".venv").exists()


def test_without_network(bare: Path, tmp_path: Path) -> None:
    """One clear line, no stamp: the next start tries again."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    pip = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    for _ in range(2):
        done = ask(bare, "run", PATH=str(tmp_path / "bin"), PYTHON=str(base), **pip)
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith(
            "error: the dependencies could not be installed: the package registry cannot be reached"
        )
        assert "Traceback" not in done.stderr and not list((bare / ".venv").glob(".installed*"))
