"""When a checkpoint is saved, and which are kept."""

from __future__ import annotations

from trainer import activity
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport


class Checkpointing(Callback):
    """Saves every `every_steps` steps, after each epoch, at the end, and at each best evaluation.

    Comes after all callbacks whose state it saves, so that they have dealt with the step.
    """

    def __init__(self, checkpoints: Checkpoints, evaluation: Evaluation, *, every_steps: int) -> None:
        self.checkpoints, self.evaluation, self.every_steps = checkpoints, evaluation, every_steps
        self._saved: tuple[int, int] | None = None  # (step, epoch) of the last checkpoint

    def on_step(self, loop: Loop, report: StepReport) -> None:
        progress = loop.progress
        if progress.epoch_step == loop.stream.steps_per_epoch and not progress.stopped:
            return  # the end of the epoch saves the same weights in a moment
        due = self.every_steps and progress.step % self.every_steps == 0
        if due or self.evaluation.improved(progress.step):
            self.save(loop)

    def on_epoch_end(self, loop: Loop) -> None:
        self.save(loop)

    def on_end(self, loop: Loop) -> None:
        self.save(loop)

    def save(self, loop: Loop) -> None:
        """Save a checkpoint now, unless this state is saved already."""
        if self._saved == (loop.progress.step, loop.progress.epoch):
            return
        self._saved = (loop.progress.step, loop.progress.epoch)
        best = self.evaluation.best["step"] if self.evaluation.best else None
        activity.expect_slow_work()
        self.checkpoints.save(loop, best_step=best)
        activity.note()
