"""Starts ranks that have their libraries loaded already: for hundreds of starts, imports would take an hour.

    python -m bench.fault_ranks        # JSON lines in: what to start; JSON lines out: pids, exit codes

The ranks are the trainer's own, forked from this process. As DeepSpeed's launcher does, it ends all of them
when one fails.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

# Loaded for the ranks; the third loads PyTorch's compiler, which takes longer than all else.
import deepspeed  # noqa: F401
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401

import trainer.rank.main  # noqa: F401
from trainer.__main__ import run

POLL_SECONDS = 0.02
GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL


def main() -> None:
    """Serve until stdin is closed."""
    alive: dict[int, int] = {}  # pid -> rank
    kill_at = float("inf")
    while True:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            line = sys.stdin.readline()
            if not line:
                break
            request = json.loads(line)
            send(alive, signal.SIGKILL)  # of a session that was given up
            while alive:
                alive.pop(os.wait()[0], None)
            alive = {fork(request, rank): rank for rank in range(request["world"])}
            kill_at = float("inf")
            answer(pids=list(alive))
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            answer(rank=alive.pop(pid), code=code)
            if code and kill_at == float("inf"):
                kill_at = time.monotonic() + GRACE_SECONDS
                send(alive, signal.SIGTERM)
        if time.monotonic() > kill_at:
            send(alive, signal.SIGKILL)
    send(alive, signal.SIGKILL)


def fork(request: dict[str, Any], rank: int) -> int:
    """Start a rank, in a process group of its own. Returns its pid."""
    pid = os.fork()
    if not pid:
        become_rank(request, rank)
    return pid


def become_rank(request: dict[str, Any], rank: int) -> NoReturn:
    """Do what DeepSpeed's launcher has a rank do."""
    os.setpgid(0, 0)
    os.environ.update(request["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=str(request["world"]), LOCAL_SIZE=str(request["world"]))
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.exit(run(request["arguments"]))


def send(pids: dict[int, int], signum: int) -> None:
    for pid in pids:
        os.kill(pid, signum)


def answer(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
