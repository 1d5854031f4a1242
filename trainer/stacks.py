"""The stacks of ranks that hang, in RUN/stacks/rank-N.txt: what each thread and loader process was doing.

A rank writes them when it gets `SIGNAL`, even where Python itself is stuck: faulthandler needs no lock.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import psutil

FOLDER = "stacks"
SIGNAL = signal.SIGUSR2

_own: TextIO | None = None  # where this process keeps its stacks


def keep(run_dir: Path, rank: int) -> TextIO:
    """Let this process answer `SIGNAL` with its stacks, in a file of its own. Returns the open file."""
    global _own
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    file = open(folder / f"rank-{rank}.txt", "w", encoding="utf-8")  # noqa: SIM115 - open as long as the run
    faulthandler.register(SIGNAL, file=file, all_threads=True)
    _own = file
    return file


def drop(file: TextIO) -> None:
    """Undo `keep` at an orderly end: nothing is left of a file without stacks."""
    global _own
    _own = None
    faulthandler.unregister(SIGNAL)
    file.close()
    path = Path(file.name)
    with contextlib.suppress(OSError):
        if not path.stat().st_size:
            path.unlink()
        path.parent.rmdir()  # where it is empty


def ask(processes: Iterable[psutil.Process], seconds: float = 1.0) -> None:
    """Have the ranks among `processes` write their stacks, those that were stopped too, and wait `seconds`.

    This process, if it is a rank, writes its own without a signal: it would read a stack that is changing.
    """
    if _own is not None:
        faulthandler.dump_traceback(_own, all_threads=True)
    asked = False
    for process in processes:
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if _answers(process.pid):
                process.send_signal(SIGNAL)
                process.send_signal(signal.SIGCONT)  # a stopped process answers only now
                asked = True
    if asked:
        time.sleep(seconds)


def written(run_dir: Path) -> Path | None:
    """Return the folder of the stacks; None where no rank has written any."""
    folder = run_dir / FOLDER
    return folder if any(path.stat().st_size for path in folder.glob("rank-*.txt")) else None


def forget(run_dir: Path) -> None:
    """Remove the stacks of an earlier start."""
    for path in (run_dir / FOLDER).glob("rank-*.txt"):
        path.unlink(missing_ok=True)


def _answers(pid: int) -> bool:
    """Whether a process has a handler for `SIGNAL`; others, such as a starting rank, the signal would end."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (SIGNAL - 1) & 1)
    return False
