"""When a checkpoint is saved, and which are kept."""

from __future__ import annotations

import sys
from typing import Any

from trainer import activity
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

FINISH_SECONDS = 30.0
"""How long a run that fails waits for the checkpoint that is being written."""


class Checkpointing(Callback):
    """Saves every `every_steps` steps, after each epoch, at the end, and at each best evaluation.

    Comes after all callbacks whose state it saves, so that they have dealt with the step.
    """

    def __init__(self, checkpoints: Checkpoints, evaluation: Evaluation, *, every_steps: int) -> None:
        self.checkpoints, self.evaluation, self.every_steps = checkpoints, evaluation, every_steps
        self._saved: tuple[int, int] | None = None  # (step, epoch) of the last checkpoint

    def on_step(self, loop: Loop, report: StepReport) -> None:
        self.checkpoints.check()
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
        self.checkpoints.finish()

    def on_error(self, loop: Loop, error: BaseException) -> None:
        if isinstance(error, Exception):  # not where the user interrupts
            self.checkpoints.finish_alone(FINISH_SECONDS)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where the best weights are lost, the next evaluation counts as the first."""
        best = self.evaluation.best
        if best is not None and not self.checkpoints.is_whole(best["step"]):
            self.evaluation.forget_best()
            if self.checkpoints.world.is_main:
                text = f"warning: the best weights, of step {best['step']}, are lost: the best is chosen anew"
                print(text, file=sys.stderr, flush=True)

    def save(self, loop: Loop) -> None:
        """Begin to save a checkpoint now, unless this state is saved already."""
        if self._saved == (loop.progress.step, loop.progress.epoch):
            return
        self._saved = (loop.progress.step, loop.progress.epoch)
        best = self.evaluation.best["step"] if self.evaluation.best else None
        activity.expect_slow_work()
        self.checkpoints.save(loop, best_step=best)
        activity.note()
