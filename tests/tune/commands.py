"""`python -m tune` as a process, with a Ray of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def alone(command):
    """In a namespace of its own, where that is allowed, Ray can bind what it likes: only loopback exists."""
    inside = ["unshare", "-n", "bash", "-c", 'ip link set lo up && exec "$@"', "bash"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    )
    return [*inside, *command] if allowed else command


def start(words, home, cache):
    """Starts `python -m tune WORDS`; it leads a session."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEALREC")}
    return subprocess.Popen(
        alone([sys.executable, "-m", "tune", *map(str, words)]),
        cwd=ROOT,
        env=environment | {"MEALREC_CACHE": str(cache), "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait(process, expected=0):
    """What it says, to its end with the expected exit code."""
    said, _ = process.communicate(timeout=420)
    assert process.returncode == expected, said[-4000:]
    return said
