"""TensorBoard, CSV, Weights & Biases, Comet: whatever DeepSpeed's monitor was configured to write."""

from __future__ import annotations

from typing import Any

from trainer.rank.callbacks.base import Callback, Record
from trainer.rank.loop import Loop

NOT_PLOTTED = ("step", "epoch", "samples", "split")


class Monitor(Callback):
    """Passes every number to `engine.monitor` (which writes on rank 0); the x axis is the optimiser step."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def on_log(self, loop: Loop, record: Record) -> None:
        self._write("train", record)

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        self._write(record["split"], record)

    def _write(self, group: str, record: Record) -> None:
        self.monitor.write_events(
            [(f"{group}/{name}", value, record["step"]) for name, value in plotted(record).items()]
        )


def plotted(record: Record) -> dict[str, float]:
    """Return the numbers of a record that have a curve, by name."""
    numbers = {name: value for name, value in record.items() if name not in NOT_PLOTTED}
    guards = numbers.pop("guards", {})
    return numbers | {f"guards/{name}": value for name, value in guards.items()}
