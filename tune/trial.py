"""One trial: the ordinary training entry in the workers of a Ray Train job; Tune sees each evaluation."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import run_directory
from trainer.errors import line_of
from trainer.rank.callbacks.base import Callback, Record
from tune.ledger import Outcome
from tune.space import METRICS

if TYPE_CHECKING:
    from trainer.rank.loop import Loop

# A trial's own process waits while its ranks compute, but Ray wants it to ask for something. It takes very
# little, from the core of a rank: so as many trials as cores fit, and none waits forever for another's ranks.
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

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        """Report the metrics to Ray."""
        import ray.train

        if record["split"] == "valid":
            ray.train.report({name: record[name] for name in (*METRICS, "epoch", "step")})


def train_rank(config: dict[str, Any]) -> None:
    """Train as one rank of the run, in one worker of the trial."""
    from trainer.rank import main

    settings = TrialSettings(**config)
    # A driver that died may have left a run in this directory: it continues from its last checkpoint.
    started = (Path(settings.run) / run_directory.CONFIG).is_file()
    arguments = ["--run", settings.run, "--resume"] if started else settings.arguments
    try:
        main.run(arguments, callbacks=[Report()], group=settings.group)
    except Exception as error:
        if os.environ["RANK"] == "0":
            Outcome("failed", line_of(error)).write(settings.outcome)
        raise


def trial(config: dict[str, Any]) -> None:
    """Run a point in a process group of its own, on a port of its own.

    All its resources are freed when it ends, or when Tune stops it.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    settings = TrialSettings(**config["point"])
    report_to_tune: Any = TuneReportCallback  # of Ray Train V2, which Ray's own annotations do not know
    TorchTrainer(
        train_rank,
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
