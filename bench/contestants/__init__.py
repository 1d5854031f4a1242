"""Contestants of a race: each is a process of its own, with the interpreter of its environment.

Only one works at a time, for a given number of core-seconds a round; the others wait. `rounds` is their side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.timing import alternate

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"


@dataclass(frozen=True)
class Entry:
    """A contestant's name, its module here, its arguments, and its environment in `.peers` (None: ours)."""

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: str | None = None

    @property
    def interpreter(self) -> Path:
        """The Python that runs it."""
        return PEERS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)


class Contestant:
    """A running contestant. `rounds`: its reports, the first a warm-up."""

    def __init__(self, entry: Entry, errors: Path):
        self.entry, self._errors, self.rounds = entry, errors, list[dict[str, float]]()
        command = [str(entry.interpreter), "-m", f"bench.contestants.{entry.module}", *entry.arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
        with open(errors, "w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def wait(self) -> None:
        """Wait until it is ready, and keep what it says of itself in `about`."""
        self.about: dict[str, str] = self._report()

    def round(self, seconds: float) -> float:
        """Rows per core-second of a round."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        report = self._report()
        self.rounds.append(report)
        return report["rows"] / report["seconds"]

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _report(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            sys.exit(f"error: {self.entry.name} ended: {self._errors.read_text()[-2000:]}")
        return json.loads(line)


def present(entries: list[Entry]) -> list[Entry]:
    """The entries whose environment is there; prints which are missing."""
    available = [entry for entry in entries if entry.interpreter.exists()]
    missing = [entry.name for entry in entries if entry not in available]
    if missing:
        print(f"without {', '.join(missing)}: `make bench-peers` makes their environments", file=sys.stderr)
    return available


@contextmanager
def started(entries: list[Entry]) -> Iterator[dict[str, Contestant]]:
    """All entries, running and ready, by name."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = {}
        for entry in entries:
            running[entry.name] = Contestant(entry, Path(folder) / f"{len(running)}.log")
            stack.callback(running[entry.name].stop)
        for contestant in running.values():  # all start at once; none works before the last is ready
            contestant.wait()
        yield running


def take_turns(contestants: Mapping[str, Contestant], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Rows per core-second of each contestant in each round."""
    calls = {
        name: lambda contestant=contestant: contestant.round(seconds)
        for name, contestant in contestants.items()
    }
    return alternate(calls, rounds)


def versions(contestants: Mapping[str, Contestant]) -> dict[str, str]:
    """Versions of the peers, by name."""
    return {c.about["package"]: c.about["version"] for c in contestants.values() if "package" in c.about}
