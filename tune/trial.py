"""One trial: the ordinary training entry in the workers of a Ray Train job; Tune hears of each evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainer.rank.callbacks.base import Callback, Record
from trainer.errors import line_of
from tune.ledger import note_end
from tune.space import METRICS

# A trial's own process waits while its ranks compute. Ray wants it to ask for something: it takes a hair of
# the core of a rank, so that as many trials as cores fit and none waits for another's ranks for ever.
TRIAL_CPU = 0.01


class Report(Callback):
    """Tells Ray of each evaluation on the validation split."""

    def on_evaluation(self, loop: Any, record: Record) -> None:
        import ray.train

        if record["split"] == "valid":
            ray.train.report({name: record[name] for name in (*METRICS, "epoch", "step")})


def rank(point: dict[str, Any]) -> None:
    """A worker of the trial is a rank of the run."""
    from trainer import run_directory
    from trainer.rank import main

    started = (Path(point["run"]) / run_directory.CONFIG).is_file()
    # A run of this name may be left by a driver that died: it continues where it was saved.
    words = ["--run", point["run"], "--resume"] if started else point["words"]
    try:
        worker.run(words, callbacks=[Report()])
    except Exception as error:
        if os.environ["RANK"] == "0":
            note_end(point["ended"], "failed", line_of(error))
        raise


def trial(config: dict[str, Any]) -> None:
    """Runs the point in a world of its own, on a port of its own; all of it is freed at its end, or when Tune
    stops it.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    point = config["point"]
    TorchTrainer(
        rank,
        train_loop_config=point,
        torch_config=TorchConfig(backend="nccl" if point["on_gpu"] else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=point["workers"],
            use_gpu=point["on_gpu"],
            resources_per_worker={"GPU": 1} if point["on_gpu"] else {"CPU": 1 - TRIAL_CPU},
        ),
        run_config=ray.train.RunConfig(
            name=f"trial-{point['id']}", storage_path=point["ray"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def environment(on_gpu: bool, root: Path) -> dict[str, str]:
    """Variables of every worker."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    if not on_gpu:
        own |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return own
