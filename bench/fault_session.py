"""One start of a run that faults are brought upon: forked ranks, or ./launch.sh and all its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.trainer import runs
from trainer import checkpoint_files, run_directory
from trainer.launch import machine
from trainer.launch.session import session_members
from trainer.source import ROOT

SECONDS = 240.0
"""Time in which a start must have come to its next step, and a session to its end after a fault."""
GONE_WITHIN = 15.0  # a loader process looks after its rank every 5 s


class Session:
    """Processes that train; `ranks` are their pids."""

    ranks: list[int]

    def __init__(self, run: Path) -> None:
        self.run, self.first = run, saved(run)
        self._begun = not (run / run_directory.CONFIG).exists()
        # A file for each start: where the size of files is limited, what is said must still fit.
        self.output = run.with_suffix(f".{len([*run.parent.glob(f'{run.name}.*.txt')])}.txt")
        self.output.touch()

    def codes(self) -> list[int] | None:
        """Exit codes, once all ranks have ended."""
        raise NotImplementedError

    def step(self) -> int:
        """The last step that this session has logged; before that, the one that it continues from."""
        if not self._begun:
            self._begun = "continuing" in self.said()  # only then is the log cut back
        losses = runs.losses(self.run) if self._begun else []
        return int(losses[-1][0]) if losses else self.first

    def await_step(self, step: int) -> bool:
        """Wait for a step; returns whether it came before the end of the session."""
        deadline = time.monotonic() + SECONDS
        while self.step() < step:
            if self.codes() is not None:
                return False
            assert time.monotonic() < deadline, (
                f"{self.run} does not come to step {step}: {self.said()[-2000:]}"
            )
            time.sleep(0.05)
        return True

    def await_end(self) -> list[int]:
        """Wait for the end; returns the exit codes."""
        deadline = time.monotonic() + SECONDS
        while (codes := self.codes()) is None:
            assert time.monotonic() < deadline, f"{self.run} does not end: {self.said()[-2000:]}"
            time.sleep(0.02)
        return codes

    def loaders(self) -> list[psutil.Process]:
        """The loader processes of the ranks."""
        return [child for rank in self.ranks for child in psutil.Process(rank).children()]

    def members(self) -> list[psutil.Process]:
        """All living processes."""
        raise NotImplementedError

    def orphans(self) -> int:
        """How many processes are left some time after the end."""
        deadline = time.monotonic() + GONE_WITHIN
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return len(left)

    def said(self) -> str:
        """What the ranks have printed."""
        return self.output.read_text()


class Ranks:
    """The process that forks ranks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.fault_ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._from.fileno(), True)

    def fork(self, world: int, arguments: Sequence[str], output: Path) -> list[int]:
        """Start ranks. Returns their pids."""
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(machine.free_port())}
        request = {"world": world, "arguments": arguments, "output": str(output), "environment": environment}
        print(json.dumps(request), file=self._to, flush=True)
        pids: list[int] = json.loads(self._from.readline())["pids"]
        return pids

    def ended(self) -> tuple[int, int]:
        """Wait until a rank has ended: its number and exit code."""
        answer = json.loads(self._from.readline())
        return answer["rank"], answer["code"]

    def close(self) -> None:
        """End the process and all that it has forked."""
        self._to.close()
        self._process.wait()


class ForkedSession(Session):
    """Ranks without an operator."""

    def __init__(self, forker: Ranks, run: Path, world: int, arguments: Sequence[str]) -> None:
        super().__init__(run)
        self.ranks = forker.fork(world, arguments, self.output)
        self._forker, self._codes = forker, list[int]()

    def codes(self) -> list[int] | None:
        if not self._codes and not any(map(lives, self.ranks)):
            self._codes = [code for _, code in sorted(self._forker.ended() for _ in self.ranks)]
        return self._codes or None

    def members(self) -> list[psutil.Process]:
        groups = set(self.ranks)  # each rank leads a process group
        return [
            process
            for process in psutil.process_iter()
            if group(process.pid) in groups and lives(process.pid)
        ]


class LaunchedSession(Session):
    """./launch.sh, DeepSpeed's launcher and its ranks."""

    def __init__(self, run: Path, arguments: Sequence[str]) -> None:
        super().__init__(run)
        with open(self.output, "ab") as output:
            self.operator = subprocess.Popen(
                [str(ROOT / "launch.sh"), *arguments], stdout=output, stderr=output, start_new_session=True
            )

    def find(self) -> None:
        """Find launchers and ranks, once they are there."""
        family = psutil.Process(self.operator.pid).children(recursive=True)
        lines = {process.pid: " ".join(process.cmdline()) for process in family}
        self.launchers = [pid for pid, line in lines.items() if "deepspeed.launcher" in line]
        self.ranks = [pid for pid, line in lines.items() if "launch.sh --local_rank" in line]
        self.ranks = [pid for pid in self.ranks if psutil.Process(pid).ppid() in self.launchers]
        self._sessions = {os.getsid(pid) for pid in self.launchers}

    def codes(self) -> list[int] | None:
        code = self.operator.poll()
        return None if code is None else [code]

    def await_restart(self, says: str) -> bool:
        """Wait until the operator has started the ranks again, and they train."""
        while says not in self.said():
            if self.codes() is not None:
                return False
            time.sleep(0.05)
        return self.await_step(self.step() + 3)

    def members(self) -> list[psutil.Process]:
        return [process for leader in self._sessions for process in session_members(leader)]


def saved(run: Path) -> int:
    """The step from which a run continues."""
    checkpoint = checkpoint_files.newest(run / run_directory.CHECKPOINTS)
    return checkpoint_files.step(checkpoint) if checkpoint else 0


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group(pid: int) -> int:
    """The process group of a process; 0 where it has just ended."""
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def pause(pid: int, seconds: float) -> None:
    """Stop a process for a moment."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
