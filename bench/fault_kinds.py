"""The faults that `bench.faults` brings upon a run on one host: how each strikes, and what must follow."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from bench.fault_session import LaunchedSession, Session, pause
from trainer import checkpoint_files, run_directory

SAVE_EVERY = 5  # steps
SAVED = "preempted: saved after step"
MOMENT = 0.3  # seconds for which a process is stopped
DISK = 8000  # bytes that a file may have where the disk is full: less than a checkpoint's, more than is said


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        strike: brings it upon a session.
        ends: whether the session must end by it; if not, it must go on.
        lost: the most steps that may be done again.
        says: what a rank or the operator must say.
        quiet: no traceback comes with it.
        ranks: the least number of ranks with which it is possible.
        share: how often it is chosen.
    """

    name: str
    strike: Callable[[Session, Random], None]
    ends: bool = True
    lost: int = SAVE_EVERY + 1
    says: str = ""
    quiet: bool = False
    ranks: int = 1
    share: int = 1


@dataclass(frozen=True)
class Damage:
    """A kind of fault that comes between two starts.

    Attributes:
        strike: damages a run or its data; returns what repairs it.
        refused: the next start must end with exit code 2 and a line; if not, it must go on.
    """

    name: str
    strike: Callable[[Path, Path, Random], Callable[[], None]]
    refused: bool = False


def _signal(signum: int) -> Callable[[Session, Random], None]:
    return lambda session, rng: os.kill(rng.choice(session.ranks), signum)


def _kill_all(session: Session, rng: Random) -> None:
    for pid in session.ranks:
        os.kill(pid, signal.SIGKILL)


def _kill_in_save(session: Session, rng: Random) -> None:
    folder = session.run / run_directory.CHECKPOINTS
    deadline = time.monotonic() + 60
    while not list(folder.glob("step-*.partial")) and session.codes() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        _kill_all(session, rng)


def _loader(strike: Callable[[int], None]) -> Callable[[Session, Random], None]:
    def strike_loader(session: Session, rng: Random) -> None:
        deadline = time.monotonic() + 60
        while not (loaders := session.loaders()) and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # an epoch ends, and its loaders with it
            strike(rng.choice(loaders).pid)

    return strike_loader


def _fill_disk(session: Session, rng: Random) -> None:
    """A limit on the size of files has the effects of a full disk, and needs no disk of its own."""
    for pid in session.ranks:
        limit = psutil.Process(pid)
        limit.rlimit(resource.RLIMIT_FSIZE, (DISK, resource.RLIM_INFINITY))


def _remove_cache(session: Session, rng: Random) -> None:
    shutil.rmtree(session.run.parent / "cache" / "features", ignore_errors=True)


PROCESSES = [
    Kind("rank stopped for a moment", lambda s, r: pause(r.choice(s.ranks), MOMENT), ends=False, share=24),
    Kind("loader stopped for a moment", _loader(lambda pid: pause(pid, MOMENT)), ends=False, share=16),
    Kind("feature cache removed", _remove_cache, ends=False, share=4),
    Kind("rank killed", _signal(signal.SIGKILL), share=3),
    Kind("all ranks killed", _kill_all, share=2),
    Kind("killed in a save", _kill_in_save, share=2),
    Kind("rank terminated", _signal(signal.SIGTERM), share=2),
    Kind(
        "SIGUSR1 to a rank",
        _signal(signal.SIGUSR1),
        lost=0,
        says="preempted: saved after step",
        quiet=True,
        share=2,
    ),
    Kind("rank stopped for good", _signal(signal.SIGSTOP), says="no sign of life", ranks=2, share=1),
    Kind("loader killed", _loader(lambda pid: os.kill(pid, signal.SIGKILL)), share=2),
    Kind("disk full", _fill_disk, says="cannot be written: ", share=2),
]


def _operator(signum: int) -> Callable[[Session, Random], None]:
    def strike(session: Session, rng: Random) -> None:
        assert isinstance(session, LaunchedSession)
        session.operator.send_signal(signum)

    return strike


def _kill_launcher(session: Session, rng: Random) -> None:
    assert isinstance(session, LaunchedSession)
    os.kill(rng.choice(session.launchers), signal.SIGKILL)


LAUNCHED = [
    Kind("operator killed", _operator(signal.SIGKILL)),
    Kind("operator: SIGINT", _operator(signal.SIGINT), says="stopped by SIGINT; continue", quiet=True),
    Kind(
        "operator: SIGTERM", _operator(signal.SIGTERM), says="stopped by SIGTERM; continue with", quiet=True
    ),
    Kind("operator: SIGUSR1", _operator(signal.SIGUSR1), lost=0, says=SAVED, quiet=True),
    Kind("disk full under a launcher", _fill_disk, says="cannot be written: ", quiet=True),
    Kind("DeepSpeed's launcher killed", _kill_launcher, says="continue with"),
    Kind("rank of a launcher stopped", _signal(signal.SIGSTOP), says="; stacks of the ranks: "),
    Kind(
        "rank of a launcher killed",
        _signal(signal.SIGKILL),
        ends=False,
        says="restart 1 of 1: continuing after",
    ),
]


def _leave_half_a_save(run: Path, data: Path, rng: Random) -> Callable[[], None]:
    folder = run / run_directory.CHECKPOINTS
    save, note = folder / "step-99999999.partial", folder / ".best.partial-1"
    save.mkdir(parents=True, exist_ok=True)
    note.write_text("step-")

    def check() -> None:
        assert not save.exists() and not note.exists()

    return check


def _truncate(file: Path, rng: Random) -> Callable[[], None]:
    content = file.read_bytes()
    os.truncate(file, rng.randrange(len(content)))
    return lambda: void(file.write_bytes(content))


def _flip(file: Path, rng: Random) -> Callable[[], None]:
    content = bytearray(file.read_bytes())
    whole = bytes(content)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return lambda: void(file.write_bytes(whole))


def _in_checkpoint(damage: Callable[[Path, Random], Callable[[], None]]):  # noqa: ANN202 - a Damage's strike
    """The newest checkpoint stays damaged: the run must continue from the one before it."""

    def strike(run: Path, data: Path, rng: Random) -> Callable[[], None]:
        newest = checkpoint_files.newest(run / run_directory.CHECKPOINTS)
        files = sorted(path for path in newest.iterdir() if path.stat().st_size) if newest else []
        if files:
            damage(rng.choice(files), rng)
        return lambda: None

    return strike


def _in_folder(folder: str, damage: Callable[[Path, Random], Callable[[], None]]):  # noqa: ANN202
    def strike(run: Path, data: Path, rng: Random) -> Callable[[], None]:
        paths = sorted(path for path in (data.parent / folder).rglob("*") if path.is_file())
        paths = [path for path in paths if path.stat().st_size]
        return damage(rng.choice(paths), rng) if paths else lambda: None  # the cache may have been removed

    return strike


def _for_good(strike):  # noqa: ANN001, ANN202
    """Damage that the next start repairs."""

    def strike_for_good(run: Path, data: Path, rng: Random) -> Callable[[], None]:
        strike(run, data, rng)
        return lambda: None

    return strike_for_good


def void(value: object) -> None:
    """Drop a value."""


BETWEEN_STARTS = [
    Damage("half a save left behind", _leave_half_a_save),
    Damage("shard truncated", _in_folder("data/sequences", _truncate), refused=True),
]

# What is found by digests: of a checkpoint's files, of the cache's, and of shards at their first opening.
FOUND_BY_DIGESTS = [
    Damage("checkpoint flipped", _in_checkpoint(_flip)),
    Damage("checkpoint truncated", _in_checkpoint(_truncate)),
    Damage("feature cache flipped", _for_good(_in_folder("cache/features", _flip))),
    Damage("shard flipped", _in_folder("data/sequences", _flip), refused=True),
]
