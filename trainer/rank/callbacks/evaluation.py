"""Validation during training: which weights are best, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.rank.callbacks.base import Callback, Record
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

SCORE = "ndcg@10"
"""Model choice and early stopping use the validation split's NDCG@10 alone."""


class Evaluation(Callback):
    """Evaluates at the end of each epoch, or every `every_steps` steps and at the end."""

    def __init__(self, evaluate: Callable[[], Record] | None, *, every_steps: int, patience: int) -> None:
        """Set when to evaluate.

        Args:
            evaluate: returns the metrics of the current weights, the same on every rank; None where no user
                is held out.
            patience: evaluations without a better score before training stops; 0 = never.
        """
        self.evaluate, self.every_steps, self.patience = evaluate, every_steps, patience
        self.best: Record | None = None
        self.last: Record | None = None
        self.misses = 0

    def on_step(self, loop: Loop, report: StepReport) -> None:
        if self.every_steps and loop.progress.step % self.every_steps == 0:
            self._evaluate(loop, loop.progress.epoch + 1)

    def on_epoch_end(self, loop: Loop) -> None:
        last_epoch = loop.progress.epoch >= loop.max_epochs
        seen = self.last is not None and self.last["step"] == loop.progress.step
        if not seen and (not self.every_steps or last_epoch):
            self._evaluate(loop, loop.progress.epoch)

    def improved(self, step: int) -> bool:
        """Whether the weights of this step are the best until now."""
        return self.best is not None and self.best["step"] == step

    def forget_best(self) -> None:
        """Choose the best weights anew, from the next evaluation on."""
        self.best, self.misses = None, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "last": self.last, "misses": self.misses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.last, self.misses = state["best"], state["last"], state["misses"]

    def _evaluate(self, loop: Loop, epoch: int) -> None:
        if self.evaluate is None:
            return
        progress = loop.progress
        self.last = {
            "step": progress.step,
            "epoch": epoch,
            "samples": progress.samples,
            "split": "valid",
            **self.evaluate(),
        }
        if self.best is None or self.last[SCORE] > self.best[SCORE]:
            self.best, self.misses = self.last, 0
        else:
            self.misses += 1
        loop.tell("on_evaluation", self.last)
        if self.patience and self.misses >= self.patience:
            progress.stopped = f"{self.misses} evaluations without a better validation {SCORE}"
