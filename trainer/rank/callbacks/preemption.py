"""A run that is preempted, by SIGUSR1, saves where it is and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport


class Preempted(Exception):
    """The run was preempted; its state is saved."""


class Preemption(Callback):
    """Saves and ends the run after the step in which any rank got SIGUSR1. Comes after Checkpointing."""

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing, self._requested = checkpointing, False

    def requested(self) -> bool:
        """Whether this rank got the signal; the step shares that with all ranks."""
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
