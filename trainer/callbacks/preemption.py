"""A run that is told to make room, by SIGUSR1, saves where it is and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from trainer.callbacks.base import Callback
from trainer.callbacks.checkpointing import Checkpointing
from trainer.loop import Loop
from trainer.step import StepReport


class Preempted(Exception):
    """The run was told to make room; its state is saved."""


class Preemption(Callback):
    """Between SIGUSR1 on any rank and the end lie one step and one checkpoint. Stands after Checkpointing."""

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing, self._told = checkpointing, False

    def told(self) -> bool:
        """Whether this rank was told; the step tells all ranks of it."""
        return self._told

    def on_start(self, loop: Loop) -> None:
        if threading.current_thread() is threading.main_thread():  # a Ray worker's loop runs in another
            signal.signal(signal.SIGUSR1, self._hear)

    def on_step(self, loop: Loop, report: StepReport) -> None:
        if report.preempted:
            self.checkpointing.save(loop)
            raise Preempted(f"told to make room: saved after step {loop.progress.step}")

    def _hear(self, signum: int, frame: FrameType | None) -> Any:
        self._told = True
