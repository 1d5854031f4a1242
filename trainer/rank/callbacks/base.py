"""The events of a training loop, and the state that a callback may keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.metrics_file import Record as Record

if TYPE_CHECKING:
    from shards import Batch
    from trainer.rank.loop import Loop
    from trainer.rank.step import StepReport


class Callback:
    """One concern beside training.

    Every rank calls every event; a callback that only writes does so on rank 0.

    `on_error` runs while other ranks may be gone: no collective there. State is saved with each checkpoint
    under the class's name, from rank 0, and loaded on every rank.
    """

    def on_start(self, loop: Loop) -> None:
        """Run before the first step of this session."""

    def on_load(self, loop: Loop, micro_batches: list[Batch]) -> None:
        """Run before each step, with this rank's micro-batches of it."""

    def on_step(self, loop: Loop, report: StepReport) -> None:
        """Run after each optimiser step; `loop.progress` counts it already."""

    def on_log(self, loop: Loop, record: Record) -> None:
        """Run every `train.log_every` steps, by `Log`: a line of metrics.jsonl."""

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        """Run after an evaluation: its line of metrics.jsonl, with `split` and the metrics."""

    def on_epoch_end(self, loop: Loop) -> None:
        """Run after the last step of an epoch; `loop.progress.epoch` counts it already."""

    def on_end(self, loop: Loop) -> None:
        """Run after the last epoch, or an early stop."""

    def on_results(self, loop: Loop, results: dict[str, Any]) -> None:
        """Run on rank 0 alone, once results.json is written; `results` is its content."""

    def on_error(self, loop: Loop, error: BaseException) -> None:
        """Run before the error is raised further and the process ends."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint saves of this callback."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint has saved; empty where it has nothing of this callback."""
