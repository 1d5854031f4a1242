"""A process keeps its memory and waits without spinning, unless its user has decided otherwise."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

# Page faults of 50 blocks of 32 MiB that are allocated, written and freed, after 5 to warm up.
SCRIPT = """
import json, os, resource
from trainer import cpu
cpu.settle()
import numpy
def faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        numpy.full(32 << 20, 1, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(5)
print(json.dumps([faults(50), os.environ["OMP_WAIT_POLICY"]]))
"""


def ask(**environment: str) -> tuple[int, str]:
    """Page faults and wait policy of a process that has settled."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MALLOC_"))}
    own["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    faults, policy = json.loads(done.stdout)
    return faults, policy


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone returns memory like this")
def test_freed_memory_is_used_again() -> None:
    faults, policy = ask()
    users, _ = ask(MALLOC_TRIM_THRESHOLD_="131072")
    assert policy == "PASSIVE"
    assert faults < users / 100


def test_what_the_user_has_set_is_kept() -> None:
    assert ask(OMP_WAIT_POLICY="ACTIVE")[1] == "ACTIVE"
