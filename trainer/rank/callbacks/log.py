"""The line of numbers that is logged every few steps."""

from __future__ import annotations

from trainer.rank.callbacks.base import Callback
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

PARTS = ("rec", "tcd", "npd")


class Log(Callback):
    """Every `every` steps: the losses of that step, and rates over the steps since the last line."""

    def __init__(self, every: int) -> None:
        self.every = max(1, every)
        self._samples = self._cells = self._real_cells = 0
        self._seconds = self._waited = 0.0

    def on_step(self, loop: Loop, report: StepReport) -> None:
        self._samples += report.samples
        self._cells += report.cells
        self._real_cells += report.real_cells
        self._seconds += report.seconds
        if loop.progress.step % self.every or report.skipped:
            return
        wait = loop.input_wait - self._waited
        record = {
            "step": loop.progress.step,
            "epoch": loop.progress.epoch + 1,
            "samples": loop.progress.samples,
            "loss": report.loss,
            **{f"loss_{part}": report.losses.get(part, 0.0) for part in PARTS},
            "lr": report.lr,
            "grad_norm": float(report.grad_norm),
            "samples_per_second": round(self._samples / (self._seconds + wait), 1),
            "padding": round(1 - self._real_cells / self._cells, 4),
            "input_wait": round(wait / (self._seconds + wait), 4),
        }
        progress = loop.progress
        unread = loop.stream.samples_until(progress.epoch, progress.epoch_step) - progress.samples
        if unread:
            record["unread_samples"] = unread
        if loop.progress.skipped:
            record["skipped"] = loop.progress.skipped
        self._samples = self._cells = self._real_cells = 0
        self._seconds, self._waited = 0.0, loop.input_wait
        loop.tell("on_log", record)
