"""`python -m tune` as a process, with its own Ray."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def isolated(command):
    """Wrap a command so that it runs in a network namespace with loopback alone, where that is allowed."""
    inside = ["unshare", "-n", "bash", "-c", 'ip link set lo up && exec "$@"', "bash"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    )
    return [*inside, *command] if allowed else command


def start(arguments, home, cache):
    """Start `python -m tune ARGUMENTS` as the leader of a session."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEALREC")}
    return subprocess.Popen(
        isolated([sys.executable, "-m", "tune", *map(str, arguments)]),
        cwd=ROOT,
        env=environment | {"MEALREC_CACHE": str(cache), "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait(process, expected=0):
    """Return the output of a process that ends with the expected exit code."""
    output, _ = process.communicate(timeout=420)
    assert process.returncode == expected, output[-4000:]
    return output
