"""One trial: the ordinary training entry; Tune sees each evaluation.

A run of one rank trains in the trial's own process, one of several in the workers of a Ray Train job, which
takes six more processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import run_directory
from trainer.errors import line_of
from trainer.launch import machine
from trainer.rank.callbacks.base import Callback, Record
from tune.ledger import Outcome
from tune.space import METRICS

if TYPE_CHECKING:
    from trainer.rank.loop import Loop

# The process of a trial of several ranks waits while they compute, but Ray wants it to ask for something. It
# takes very little, from the core of a rank: so as many trials as cores fit, and none waits forever for
# another's ranks.
TRIAL_CPU = 0.01


@dataclass(frozen=True)
class TrialSettings:
    """What a trial is given. Ray passes it as a plain dict."""

    id: str
    arguments: list[str]  # command line of the run
    run: str  # run directory
    outcome: str  # file that says how the point ended without results
    ray: str  # directory for Ray's own files
    workers: int  # ranks of the run
    on_gpu: bool
    group: str  # in which a tracker shows the run


class Report(Callback):
    """Reports each evaluation on the validation split to Ray."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        """Report the metrics to Ray."""
        if record["split"] == "valid":
            self._report({name: record[name] for name in (*METRICS, "epoch", "step")})


def train(settings: TrialSettings, report: Callable[[dict[str, Any]], None]) -> None:
    """Train as one rank of the run, the one that the environment names."""
    from trainer.rank import main

    # A driver that died may have left a run in this directory: it continues from its last checkpoint.
    started = (Path(settings.run) / run_directory.CONFIG).is_file()
    arguments = ["--run", settings.run, "--resume"] if started else settings.arguments
    try:
        main.run(arguments, callbacks=[Report(report)], group=settings.group)
    except Exception as error:
        if os.environ["RANK"] == "0":
            Outcome("failed", line_of(error)).write(settings.outcome)
        raise


def trial(config: dict[str, Any]) -> None:
    """Run a point in a process group of its own, on a port of its own.

    All its resources are freed when it ends, or when Tune stops it.
    """
    settings = TrialSettings(**config["point"])
    if settings.workers == 1:
        train_alone(settings)
    else:
        train_together(settings)


def train_alone(settings: TrialSettings) -> None:
    """Train as the only rank, in this process."""
    import ray.tune

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(machine.free_port())}
    train(settings, ray.tune.report)


def train_together(settings: TrialSettings) -> None:
    """Train with the workers of a Ray Train job as the ranks."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    report_to_tune: Any = TuneReportCallback  # of Ray Train V2, which Ray's own annotations do not know
    TorchTrainer(
        train_worker,
        train_loop_config=asdict(settings),
        torch_config=TorchConfig(backend="nccl" if settings.on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.on_gpu,
            resources_per_worker={"GPU": 1} if settings.on_gpu else {"CPU": 1 - TRIAL_CPU},
        ),
        run_config=ray.train.RunConfig(
            name=f"trial-{settings.id}", storage_path=settings.ray, callbacks=[report_to_tune()]
        ),
    ).fit()


def train_worker(config: dict[str, Any]) -> None:
    """Train as one of several ranks, in a worker of the job."""
    import ray.train

    train(TrialSettings(**config), ray.train.report)


def resources(workers: int, *, on_gpu: bool) -> dict[str, float]:
    """Return what the process of a trial asks Ray for."""
    if workers > 1:
        return {"cpu": TRIAL_CPU}
    return {"gpu": 1} if on_gpu else {"cpu": 1}
