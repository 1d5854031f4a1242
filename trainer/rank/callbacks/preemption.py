"""A run that is preempted, by SIGUSR1, saves where it is and ends."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType

from trainer import run_directory
from trainer.errors import RunEnded
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

SECONDS_BETWEEN_LOOKS = 0.5  # for the operator's request, a file


class Preempted(RunEnded):
    """The run was preempted; its state is saved."""


class Preemption(Callback):
    """Saves and ends the run after the step in which any rank, or the operator, got SIGUSR1.

    Comes after Checkpointing.
    """

    def __init__(self, checkpointing: Checkpointing, run_dir: Path, *, is_main: bool) -> None:
        self.checkpointing, self.run_dir, self.is_main = checkpointing, run_dir, is_main
        self._requested, self._looked = False, 0.0

    def requested(self) -> bool:
        """Whether this rank got the signal, or rank 0 the request; the step shares that with all ranks."""
        if self.is_main and time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._requested |= run_directory.save_is_asked(self.run_dir)
        return self._requested

    def on_start(self, loop: Loop) -> None:
        if threading.current_thread() is threading.main_thread():  # a Ray worker's loop runs in another
            signal.signal(signal.SIGUSR1, self._request)

    def on_step(self, loop: Loop, report: StepReport) -> None:
        if report.preempted:
            self.checkpointing.save(loop)
            self.checkpointing.checkpoints.finish()
            raise Preempted(f"preempted: saved after step {loop.progress.step}")

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True
