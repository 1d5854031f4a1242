"""Keeps the moving average of the weights up to date."""

from __future__ import annotations

from trainer.rank.average import WeightAverage
from trainer.rank.callbacks.base import Callback
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport


class Averaging(Callback):
    """Takes in the weights after each step. Comes before all that evaluates or saves the average."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step(self, loop: Loop, report: StepReport) -> None:
        if not report.skipped:
            self.average.update(loop.progress.step - 1)
