"""The trackers of a sweep's runs: one group of Weights & Biases, or one experiment of MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from trainer import trackers
from tune.space import Point

SQLITE = "sqlite:///"


def check(points: list[Point]) -> None:
    """Check that the runs can be tracked as they ask.

    Raises:
        UserError: a library that is not installed, or no login.
    """
    for name in sorted(_named(points)):
        trackers.check(name)


def group_of(out: Path) -> str:
    """Return the group of the runs in a directory: its last two names, as in `studies/world`."""
    return "/".join(out.parts[-2:])


def variables(points: list[Point], group: str) -> dict[str, str]:
    """Return the environment variables of every worker's tracker, after making the experiment in MLflow.

    It is made here, as several trials that begin at once would each make the tables of a new file.
    """
    found = {name: os.environ[name] for name in trackers.VARIABLES if name in os.environ}
    if "mlflow" in _named(points):
        import mlflow

        from trainer.rank.callbacks.track_mlflow import experiment

        experiment(group)
        found["MLFLOW_TRACKING_URI"] = _absolute(mlflow.get_tracking_uri())
    return found


def _named(points: list[Point]) -> set[str]:
    return {str(point.overrides.get("train.track", "none")) for point in points}


def _absolute(address: str) -> str:
    """The address of a file, whatever the folder is that a worker runs in."""
    if address.startswith(SQLITE):
        return SQLITE + os.path.abspath(address.removeprefix(SQLITE))
    return address if ":" in address else os.path.abspath(address)
