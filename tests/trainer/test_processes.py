"""Which process is meant, whether it still lives, and what it leaves in shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import processes


def test_a_later_process_with_the_same_number_is_another() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        pid, created = processes.identity(process.pid).split(":")
        assert not processes.WatchedProcess(int(pid), float(created)).is_gone()
        assert processes.WatchedProcess(int(pid), float(created) - 5).is_gone()
    finally:
        process.kill()
        process.wait()
    assert processes.WatchedProcess(process.pid).is_gone()


@pytest.mark.parametrize("missing", [False, True])
def test_only_our_own_shared_memory_is_removed(tmp_path: Path, missing: bool) -> None:
    ours, other = (
        "deepspeed_allreduce_buffer_0_127.0.0.1_25001_1",
        "deepspeed_allreduce_buffer_0_127.0.0.1_25002_1",
    )
    for name in (ours, other, "unrelated_25001_0"):
        (tmp_path / name).write_text("")
    if missing:
        (tmp_path / ours).unlink()
    processes.remove_shared_memory(25001, str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [other, "unrelated_25001_0"]
