"""samples.jsonl: which samples every step has used, one JSON object a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import distributed
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.metrics_file import cut_back
from trainer.rank.loop import Loop
from trainer.rank.step import StepReport

if TYPE_CHECKING:
    from shards import Batch


class SampleLog(Callback):
    """Appends step, epoch and all ranks' sample ids (rank 0); steps that a resume repeats are there once."""

    def __init__(self, path: Path, *, is_main: bool) -> None:
        self.path, self.is_main = path, is_main
        self._samples: list[int] = []

    def on_start(self, loop: Loop) -> None:
        if self.is_main:
            cut_back(self.path, loop.progress.step)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run

    def on_load(self, loop: Loop, micro_batches: list[Batch]) -> None:
        self._samples = [
            sample
            for batch in micro_batches
            for sample in batch["sample_id"][batch["weight"] > 0].tolist()  # fillers have no weight
        ]

    def on_step(self, loop: Loop, report: StepReport) -> None:
        samples = [sample for part in distributed.gather_objects(self._samples) for sample in part]
        if self.is_main:
            record = {"step": loop.progress.step, "epoch": loop.progress.epoch + 1, "samples": samples}
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
