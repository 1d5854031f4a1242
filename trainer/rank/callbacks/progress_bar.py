"""The progress bar on rank 0; where stderr is not a terminal, a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

from trainer.rank.callbacks.base import Callback, Record
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(Callback):
    """Shows step, rate, ETA, loss parts, padding share and the share of time spent waiting for input."""

    def __init__(self, steps_per_epoch: int, max_epochs: int) -> None:
        self.steps_per_epoch, self.max_epochs = steps_per_epoch, max_epochs
        self.total = steps_per_epoch * max_epochs
        self._bar: tqdm[NoReturn] | None = None
        self._printed = 0.0
        self._session = (0, 0.0)

    def on_start(self, loop: Loop) -> None:
        self._session = (loop.progress.step, time.perf_counter())
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total, initial=loop.progress.step, unit="step", dynamic_ncols=True, smoothing=0.05
            )

    def on_step(self, loop: Loop, report: StepReport) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_log(self, loop: Loop, record: Record) -> None:
        text = self._describe(record)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.perf_counter() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.perf_counter()
            place = f"step {record['step']}/{self.total} | epoch {record['epoch']}/{self.max_epochs}"
            self._write(f"{place} | {text} | ETA {self._eta(loop)}")

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        shown = " ".join(f"{name} {record[name]:.4f}" for name in ("hr@10", "ndcg@10", "mrr"))
        place = f"step {record['step']} | epoch {record['epoch']}"
        self._write(f"{place} | {record['split']}: {shown} ({record['users']} users)")

    def on_end(self, loop: Loop) -> None:
        self._close()
        if loop.progress.stopped:
            self._write(f"stopped early: {loop.progress.stopped}")

    def on_error(self, loop: Loop, error: BaseException) -> None:
        self._close()

    def _describe(self, record: Record) -> str:
        parts = " ".join(
            f"{name[5:]} {value:.4f}" for name, value in record.items() if name.startswith("loss_") and value
        )
        return (
            f"loss {record['loss']:.4f} ({parts}) | {record['samples_per_second']:.0f} samples/s"
            f" | padding {record['padding']:.1%} | input wait {record['input_wait']:.1%}"
        )

    def _eta(self, loop: Loop) -> str:
        first, started = self._session
        rate = (loop.progress.step - first) / (time.perf_counter() - started)
        left = int((self.total - loop.progress.step) / rate) if rate else 0
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
