"""The run directory: its files, its name, and the locks that keep two runs out of one directory.

RUN/config.yaml       the resolved configuration
RUN/.address          the data set's address where it has credentials, which config.yaml leaves out; mode 0600
RUN/environment.json  versions, devices, git state, data
RUN/metrics.jsonl     one object per line
RUN/ranks-SPLIT.parquet  the rank of each user's target
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
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer import files
from trainer.errors import UserError
from trainer.files import PathLike

CONFIG = "config.yaml"
ADDRESS = ".address"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"
ENDING = ".ending"  # why the ranks ended the run, as they note it for the operator
SAVE_REQUEST = ".save"  # the operator asks the ranks to save and end
NOTES_VARIABLE = "MEALREC_NOTES"  # environment variable: where the operator has made room for such notes
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
        await_old_ranks(path)
        for folder in (path, path / CHECKPOINTS):
            files.remove_partials(folder)
        if not resume and (path / CONFIG).exists():
            raise UserError(f"{path} holds a run already: continue it with --resume, or name another --run")
    except BaseException:
        lock.release()
        raise
    return lock


def rank_lock(path: PathLike) -> RunLock:
    """Take the lock that rank 0 holds while it lives: a run is in use as long as anyone writes into it."""
    return RunLock(Path(path) / RANK_LOCK)


def await_old_ranks(path: Path, seconds: float = RANKS_END_WITHIN) -> None:
    """Wait for ranks that outlive their operator or launcher by a moment.

    Raises:
        UserError: rank 0 is still there after `seconds`.
    """
    deadline = time.monotonic() + seconds
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


def ranks(path: PathLike, split: str) -> Path:
    """Return the file of the ranks of a split's users, "valid" or "test"."""
    return Path(path) / f"ranks-{split}.parquet"


@dataclass(frozen=True)
class Ending:
    """Why the ranks ended a run before it was finished: one line, and the exit code that goes with it."""

    line: str
    code: int


def note_ending(path: PathLike, ending: Ending) -> bool:
    """Leave the line to the operator, which prints it once, whichever rank ends first.

    It lies where the operator has made room for it, beside the run directory, which may be what cannot be
    written. Returns whether that was possible.
    """
    try:
        files.write_json(_notes(path) / ENDING, asdict(ending))
    except UserError:
        return False
    return True


def ending_is_noted(path: PathLike) -> bool:
    """Whether a rank has said why the run ends: what the others then meet is a consequence."""
    return (_notes(path) / ENDING).is_file()


def take_ending(path: PathLike, notes: PathLike | None = None) -> Ending | None:
    """Return what was noted, in the run directory or in `notes`, and remove it."""
    for folder in (path, notes):
        note = Path(folder or path) / ENDING
        if note.is_file():
            ending = Ending(**files.read_json(note))
            note.unlink()
            return ending
    return None


def _notes(path: PathLike) -> Path:
    """The operator's folder for notes; the run directory where there is none, as on another host."""
    notes = os.environ.get(NOTES_VARIABLE)
    return Path(notes) if notes and os.path.isdir(notes) else Path(path)


def ask_to_save(path: PathLike) -> None:
    """Ask the ranks to save and end, wherever they are."""
    (Path(path) / SAVE_REQUEST).touch()


def save_is_asked(path: PathLike) -> bool:
    """Whether the ranks are asked to save and end."""
    return (Path(path) / SAVE_REQUEST).exists()


def forget_save_request(path: PathLike) -> None:
    """Remove the request of an earlier start."""
    (Path(path) / SAVE_REQUEST).unlink(missing_ok=True)
