"""Fixtures that more than one folder uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Small tensors: a second thread gains nothing and, where other processes keep the cores busy, waits forever.
# Set before torch is loaded, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent

STAND_IN = '''
"""A rank that trains nothing: it writes down what it was given, and does what $STAND_IN says."""
import os, signal, time
from pathlib import Path
from trainer import files, run_directory, stacks
from trainer.rank import parent_watch
from trainer.errors import RunEnded, UserError

def main(argv):
    parent_watch.start()
    if run_directory.RUN_VARIABLE in os.environ:
        kept = stacks.keep(Path(os.environ[run_directory.RUN_VARIABLE]), int(os.environ["RANK"]))
    rank, task = os.environ["RANK"], os.environ["STAND_IN"]
    report = {"arguments": list(argv), "pid": os.getpid(), "environment": dict(os.environ)}
    files.write_json(Path(os.environ["STAND_IN_OUT"]) / f"rank-{rank}.json", report)
    if task == "die, then finish":
        task = "finish" if "--resume" in argv else "die"
    if task == "finish" and rank == "0":
        files.write_json(Path(os.environ[run_directory.RUN_VARIABLE]) / run_directory.RESULTS, {})
    if task in ("finish", "leave"):
        return 0
    if rank == "1" and task == "crash":
        os._exit(3)
    if rank == "1" and task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == "1" and task == "mistake":
        raise UserError("sequences-000003.tar is truncated")
    while task == "save":
        if run_directory.save_is_asked(os.environ[run_directory.RUN_VARIABLE]):
            raise RunEnded("preempted: saved after step 3")
        time.sleep(0.1)
    if task == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(120)
'''


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function of a seed: the directory of a tiny synthetic data set, made once."""
    folder = tmp_path_factory.mktemp("data")

    def make(seed: int = 0) -> Path:
        from shards import synthesise

        path = folder / f"seed-{seed}"
        if not path.exists():
            synthesise(path, users=60, videos=24, frames=2, width=4, seed=seed)
        return path

    return make


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose ranks train nothing, so that starting and ending processes can be tested quickly."""
    tree = tmp_path_factory.mktemp("stand in")
    for name in ("launch.sh", "environment.sh", "environment.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "trainer", tree / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "trainer" / "rank" / "main.py").write_text(STAND_IN)
    for name in ("mealrec", "shards"):
        (tree / name).symlink_to(ROOT / name)
    return tree


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """A function that starts a command line in `tmp_path`, with this interpreter's environment active.

    Its output goes to `tmp_path`/output; what is left of it at the end of the test is killed.
    """
    started: list[subprocess.Popen] = []
    (tmp_path / "ranks").mkdir()

    def start(command: list[str], **environment: str) -> subprocess.Popen:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("MEALREC_", "STAND_IN"))
        }
        env |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]]),
            "DS_ACCELERATOR": "cpu",
            "STAND_IN_OUT": str(tmp_path / "ranks"),
            **environment,
        }
        with open(tmp_path / "output", "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
