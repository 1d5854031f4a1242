"""What the runs cost: time, ranks, devices."""

from __future__ import annotations

from collections import Counter

import numpy as np

from trainer.report.blocks import MISSING, Cell, Section, Table, number, share
from trainer.report.charts import finite
from trainer.report.comparison import Comparison
from trainer.report.run_facts import RunFacts


def section(comparison: Comparison) -> Section:
    """Return the section."""
    finished = {n: run for n, run in enumerate(comparison.runs) if run.results}
    runs = [*finished.values()]
    rows = [
        [Cell("wall time of training"), *(_time(_seconds(run)) for run in runs)],
        [Cell("ranks"), *(Cell(str(_ranks(run)), order=_ranks(run)) for run in runs)],
        [Cell("devices"), *(Cell(_devices(run)) for run in runs)],
        [Cell("core time, GPU time"), *(_device_time(run) for run in runs)],
        [Cell("samples a second, median"), *(number(_median(run, "samples_per_second"), 0) for run in runs)],
        [Cell("waiting for input, median"), *(share(_median(run, "input_wait")) for run in runs)],
    ]
    columns = ["", *(run.name for run in runs)]
    table = Table("Cost of training", columns, rows, dict(enumerate(finished, start=1)))
    return Section(
        "cost",
        "Cost",
        "Core time is wall time by the threads of all ranks, GPU time by their GPUs.",
        tables=[table] if finished else [],
    )


def _seconds(run: RunFacts) -> float:
    return run.results.seconds if run.results else 0.0


def _ranks(run: RunFacts) -> int:
    return run.results.world_size if run.results else 1


def _devices(run: RunFacts) -> str:
    kinds = Counter(f"{device.name or device.device}" for device in run.environment.devices)
    return ", ".join(f"{count} × {name}" for name, count in kinds.items()) or MISSING


def _device_time(run: RunFacts) -> Cell:
    devices = run.environment.devices
    if not devices:
        return Cell(MISSING)
    cores = sum(device.threads for device in devices if device.device == "cpu")
    gpus = sum(device.device != "cpu" for device in devices)
    time = _time(_seconds(run) * (gpus or cores))
    return Cell(f"{time.text} of {gpus} GPUs" if gpus else f"{time.text} of {cores} cores", order=time.order)


def _time(seconds: float) -> Cell:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return Cell(f"{hours} h {minutes:02d} min", order=seconds)
    return Cell(f"{minutes} min {rest:02d} s" if minutes else f"{rest} s", order=seconds)


def _median(run: RunFacts, key: str) -> float | None:
    values = [value for record in run.records if (value := finite(record.get(key))) is not None]
    return float(np.median(values)) if values else None
