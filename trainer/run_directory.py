"""The run directory: its files, its name, and the locks that keep two runs out of one directory.

RUN/config.yaml       the resolved configuration
RUN/environment.json  versions, devices, git state, data
RUN/metrics.jsonl     one object per line
RUN/results.json      written last: a run that has it is finished
RUN/checkpoints/  RUN/tensorboard/  RUN/curves.png
RUN/.lock  RUN/.lock-rank0  held by the operator and by rank 0
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from pathlib import Path

from trainer import files
from trainer.errors import UserError
from trainer.files import PathLike

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"
MISTAKE = ".mistake"  # the line of a user's mistake that a rank met after the start
RUN_VARIABLE = "MEALREC_RUN"  # environment variable: the run directory that the operator made for its ranks
OPERATOR_LOCK, RANK_LOCK = ".lock", ".lock-rank0"

LONGEST_PATH = 3800  # bytes: what the file system takes, less the names of files in the directory
RANKS_END_WITHIN = 5.0  # seconds in which the ranks of a killed operator must be gone


class RunLock:
    """An exclusive flock on a file of the run directory. The kernel drops it with its process."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            UserError: another process holds it, or the directory cannot be written.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"run directory {path.parent} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(self._descriptor)
            raise UserError(f"run directory {path.parent} is in use by {holder}") from None
        except OSError as error:
            os.close(self._descriptor)
            raise UserError(f"run directory {path.parent} cannot be locked: {error.strerror}") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def new_name(preset: str, root: PathLike = "runs") -> Path:
    """Return an unused `root/<date-time>-<preset>`; a number is added where two starts meet in one second."""
    stem = Path(root) / f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9._-]', '_', preset)}"
    names = [stem, *(stem.with_name(f"{stem.name}-{number}") for number in range(2, 1000))]
    return next(name for name in names if not name.exists())


def claim(path: PathLike, *, resume: bool) -> RunLock:
    """Make the run directory and lock it for this process: its operator, or rank 0 where there is none.

    Raises:
        UserError: in use, unwritable, with a run in it and no `resume`, with files that are not a run, or
            without a run to resume.
    """
    path = Path(path)
    if len(os.fsencode(path.absolute())) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    if resume and not (path / CONFIG).is_file():
        raise UserError(f"--resume: {path} holds no run: no {CONFIG} there")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        raise UserError(f"run directory {path} cannot be made: {error.strerror}") from None
    names = {entry.name for entry in path.iterdir()}
    if names and not names & {OPERATOR_LOCK, CONFIG}:  # somebody's files: not even a lock is left among them
        raise UserError(f"{path} is not empty and holds no run: name another --run")
    lock = RunLock(path / OPERATOR_LOCK)
    try:
        _await_old_ranks(path)
        if not resume and (path / CONFIG).exists():
            raise UserError(f"{path} holds a run already: continue it with --resume, or name another --run")
    except BaseException:
        lock.release()
        raise
    return lock


def rank_lock(path: PathLike) -> RunLock:
    """Take the lock that rank 0 holds while it lives: a run is in use as long as anyone writes into it."""
    return RunLock(Path(path) / RANK_LOCK)


def _await_old_ranks(path: Path) -> None:
    """Ranks outlive an operator that was killed -9 by a moment: wait for it to pass."""
    deadline = time.monotonic() + RANKS_END_WITHIN
    while True:
        try:
            return rank_lock(path).release()
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def is_finished(path: PathLike) -> bool:
    """Whether the run in `path` has finished: `results.json` is the last file it writes."""
    return (Path(path) / RESULTS).is_file()


def note_mistake(path: PathLike, line: str) -> bool:
    """Leave the line of a user's mistake, which a rank met after the start, to the operator.

    The operator prints it once and exits 2, whichever rank ends first. Returns whether that was possible.
    """
    try:
        files.write_text(Path(path) / MISTAKE, line + "\n")
    except UserError:
        return False
    return True


def take_mistake(path: PathLike) -> str | None:
    """Return the noted line, if there is one, and remove it."""
    note = Path(path) / MISTAKE
    try:
        line = note.read_text(encoding="utf-8").strip()
        note.unlink()
    except OSError:
        return None
    return line
