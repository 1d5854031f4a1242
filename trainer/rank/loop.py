"""The training loop: load, step, log, evaluate, save. The callbacks say what happens at each point."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shards import Batch, TrainStream
from trainer import activity
from trainer.rank.step import StepReport, TrainStep

if TYPE_CHECKING:
    from trainer.rank.callbacks.base import Callback


@dataclass
class Progress:
    """How far the run is. Saved with every checkpoint; enough to continue with the next global batch."""

    epoch: int = 0  # epochs done
    epoch_step: int = 0  # global batches done in the current epoch
    step: int = 0  # global batches done since the start of the run
    samples: int = 0  # samples seen since the start of the run
    seconds: float = 0.0  # training time, earlier sessions of the run included
    skipped: int = 0  # batches left out as their loss or gradient was not finite
    stopped: str = ""  # why training ends before its last epoch, if it does

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint saves."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint has saved."""
        self.__dict__.update(state)


class Loop:
    """Trains: every global batch of every epoch goes through one step, and the callbacks get each event."""

    def __init__(
        self,
        step: TrainStep,
        stream: TrainStream,
        callbacks: Sequence[Callback],
        progress: Progress,
        max_epochs: int,
    ) -> None:
        self.step, self.stream, self.callbacks = step, stream, callbacks
        self.progress, self.max_epochs = progress, max_epochs
        self.input_wait = 0.0  # seconds spent waiting for batches

    def run(self) -> None:
        """Train to the last epoch or until a callback sets `progress.stopped`."""
        self._mark = time.perf_counter()
        try:
            self.tell("on_start")
            while self.progress.epoch < self.max_epochs and not self.progress.stopped:
                self.train_epoch()
            self.tell("on_end")
        except BaseException as error:
            self.tell("on_error", error)
            raise

    def train_epoch(self) -> None:
        """Train the rest of the current epoch, from `progress.epoch_step` on."""
        progress = self.progress
        for micro_batches in self.load():
            self.tell("on_load", micro_batches)
            report = self.step(micro_batches, progress.epoch, progress.step)
            self.advance(report)
            self.tell("on_step", report)
            if progress.stopped:
                return
        progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        self.tell("on_epoch_end")

    def load(self) -> Iterator[list[Batch]]:
        """Yield this rank's share of the epoch's global batches, counting the time spent waiting for them."""
        started = time.perf_counter()
        for micro_batches in self.stream.epoch(self.progress.epoch, self.progress.epoch_step):
            self.input_wait += time.perf_counter() - started
            yield micro_batches
            started = time.perf_counter()

    def advance(self, report: StepReport) -> None:
        """Count one global batch and the time since the one before it."""
        self._mark, before = time.perf_counter(), self._mark
        self.progress.seconds += self._mark - before
        self.progress.epoch_step += 1
        self.progress.step += 1
        self.progress.samples += report.samples
        self.progress.skipped += report.skipped

    def tell(self, event: str, *details: Any) -> None:
        """Call `event` of every callback in order."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *details)
        activity.note()
