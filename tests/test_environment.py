"""environment.sh and environment.py: what is used, and what is said where no environment can be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import environment

TOOLS = ("sh", "dirname")


def ask(root: Path, purpose: str, **environment: str) -> subprocess.CompletedProcess:
    command = [str(root / "environment.sh"), purpose]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def bare(root: Path, tmp_path: Path) -> Path:
    """A checkout without an environment, beside `bin`, where nothing but a shell is."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    for name in ("environment.sh", "environment.py", "pyproject.toml", "constraints.txt"):
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
    old.write_text("#!/bin/sh\nexit 1\n")  # a Python older than 3.10
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


def test_pyproject_is_read_as_toml_says() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    text = environment.PROJECT.read_text()
    project = tomllib.loads(text)["project"]
    assert environment.read_arrays(text, "project")["dependencies"] == project["dependencies"]
    extras = environment.read_arrays(text, "project.optional-dependencies")
    assert extras == project["optional-dependencies"]


def test_each_requirement_is_looked_for() -> None:
    """None has a form that `is_installed` does not know, and those who run the tests have them all."""
    missing = [name for name in environment.requirements("dev") if not environment.is_installed(name)]
    assert not missing


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution `mealrec-part` 2.10.0a1, whose extra `cloud` needs one that is not there."""
    folder = tmp_path / "site" / "mealrec_part-2.10.0a1+build.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mealrec-part\nVersion: 2.10.0a1+build\n"
        "Requires-Dist: no-such-part>=1\n"
        "Requires-Dist: no-such-part>=1; extra == 'cloud'\n"
        "Requires-Dist: no-such-part; sys_platform == 'win32' and extra == 'local'\n"
    )
    monkeypatch.syspath_prepend(folder.parent)


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("requirement", "there"),
    [
        ("mealrec-part", True),
        ("mealrec_part>=2.9,<3", True),
        ("mealrec-part>=2.10", True),
        ("mealrec-part==2.10.0", True),
        ("mealrec-part>=2.10.1", False),
        ("mealrec-part>=2,<2.10", False),
        ("mealrec-part[local]>=2", True),
        ("mealrec-part[local,cloud]>=2", False),
        ("no-such-part", False),
    ],
)
def test_versions_and_extras(requirement: str, there: bool) -> None:
    assert environment.is_installed(requirement) is there


def test_a_marker_is_not_ignored() -> None:
    with pytest.raises(ValueError, match="unknown form of requirement"):
        environment.is_installed("tomli; python_version < '3.11'")


FAKE_UV = """#!{python}
import pathlib, sys
if sys.argv[1] == "venv":
    python = pathlib.Path(sys.argv[-1]) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
print("uv", *sys.argv[1:])
"""
FAKE_PIP = "import os, sys; print(os.environ['SETTINGS'] if 'config' in sys.argv else sys.argv[1:])"


def test_uv_installs_where_pip_has_no_configuration(bare: Path, tmp_path: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    uv, pip = tmp_path / "bin" / "uv", tmp_path / "modules" / "pip.py"
    uv.write_text(FAKE_UV.format(python=base))
    uv.chmod(0o755)
    pip.parent.mkdir()
    pip.write_text(FAKE_PIP)
    variables = {"PATH": str(tmp_path / "bin"), "PYTHON": str(base), "PYTHONPATH": str(pip.parent)}
    log = bare / ".venv" / "install.log"

    done = ask(bare, "dev", **variables, SETTINGS="")
    assert (done.returncode, done.stdout) == (0, f"{bare}/.venv/bin/python\n"), done.stderr
    package = [
        "-c",
        f"{bare}/constraints.txt",
        "-e",
        f"{bare}[dev,docs,export,frames,mlflow,report,tune,wandb]",
    ]
    assert log.read_text().split("\n")[0] == " ".join(
        ["uv", "pip", "install", "--python", f"{bare}/.venv/bin/python", *package]
    )
    again = ask(bare, "run", **variables, SETTINGS="")  # what is there to develop is enough to train
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "")

    (bare / "constraints.txt").write_text("")  # outdated: installed again
    done = ask(bare, "run", **variables, SETTINGS="global.index-url='https://packages.example'")
    assert done.returncode == 0 and done.stderr.startswith("installing the dependencies")
    options = ["install", "--no-input", "-c", f"{bare}/constraints.txt", "-e", str(bare)]
    assert log.read_text() == f"{options}\n"
