"""What a callback can hear of, and what it may keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.loop import Loop
    from trainer.step import StepReport

Record = dict[str, Any]


class Callback:
    """One concern beside training. Every rank calls every event; a callback that only writes does so on rank
    0.

    `on_error` runs while other ranks may be gone: no collective there. State is saved with each checkpoint
    under the class's name, from rank 0, and loaded on every rank.
    """

    def on_start(self, loop: Loop) -> None:
        """Before the first step of this session."""

    def on_step(self, loop: Loop, report: StepReport) -> None:
        """After each optimiser step; `loop.progress` counts it already."""

    def on_log(self, loop: Loop, record: Record) -> None:
        """Every `train.log_every` steps, told by `Log`: a line of metrics.jsonl."""

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        """After an evaluation: its line of metrics.jsonl, with `split` and the metrics."""

    def on_epoch_end(self, loop: Loop) -> None:
        """After the last step of an epoch; `loop.progress.epoch` counts it already."""

    def on_end(self, loop: Loop) -> None:
        """After the last epoch, or an early stop."""

    def on_error(self, loop: Loop, error: BaseException) -> None:
        """Before the error goes up and the process ends."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
