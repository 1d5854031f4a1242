"""MLflow. Its server or file is what its own environment variables say."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from trainer.rank.callbacks.tracker import TrackedRun, leaves

EXPERIMENT = "mealrec"
MOST_PARAMETERS = 100  # that MLflow takes at once


class MLflow:
    """A run of MLflow. The runs of a sweep have an experiment of their own."""

    def begin(self, run: TrackedRun) -> tuple[str, dict[str, int]]:
        """Begin the run, or continue it; parameters are those of the first start, as MLflow keeps them."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if run.id is None:
            made = self._client.create_run(experiment(run.group), run_name=run.folder.name, tags=tags(run))
            self._id = made.info.run_id
            parameters = [Param(name, str(value)) for name, value in leaves(run.options, ".").items()]
            for start in range(0, len(parameters), MOST_PARAMETERS):
                self._client.log_batch(self._id, params=parameters[start : start + MOST_PARAMETERS])
            return self._id, {"train": 0, "valid": 0}
        self._id = run.id
        self._client.update_run(self._id, status="RUNNING")
        metrics = self._client.get_run(self._id).data.metrics
        return self._id, {group: int(metrics.get(f"{group}/step", 0)) for group in ("train", "valid")}

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Add numbers to their curves."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_allowed(name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, results: dict[str, Any] | None) -> None:
        """End the run; the results are metrics of the best step, and tags where they are no numbers."""
        if results is not None:
            best = int(results["best_step"])
            numbers = {name: value for name, value in results.items() if isinstance(value, (int, float))}
            self.log(best, {f"results/{name}": float(value) for name, value in numbers.items()})
            for name in results.keys() - numbers.keys():
                self._client.set_tag(self._id, f"results/{name}", _text(results[name]))
        self._client.set_terminated(self._id, "FAILED" if results is None else "FINISHED")


def experiment(group: str) -> str:
    """Return the id of the experiment of a group of runs; it is made where there is none."""
    import mlflow

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    return str(mlflow.set_experiment(f"{name}/{group}" if group else name).experiment_id)


def tags(run: TrackedRun) -> dict[str, str]:
    """Return the facts of a run as tags."""
    facts = {"run": str(run.folder), **run.facts}
    return {name: _text(value) for name, value in leaves(facts, ".").items()}


def _allowed(name: str) -> str:
    """The name of a metric: MLflow takes no `@`."""
    return name.replace("@", "_at_")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
