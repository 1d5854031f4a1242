"""Weights & Biases. Where it writes and whether it sends are up to its own environment variables."""

from __future__ import annotations

import os
from typing import Any

from trainer.rank.callbacks.tracker import TrackedRun

PROJECT = "mealrec"


class Wandb:
    """A run of Weights & Biases, its files in the run directory."""

    def begin(self, run: TrackedRun) -> tuple[str, dict[str, int]]:
        """Begin the run, or continue it."""
        import wandb

        settings = wandb.Settings(
            console="off",  # what is printed stays with the run's own process
            silent=True,
            x_disable_meta=True,  # it has the command line, where an address may have a password
            finish_timeout=60,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            group=run.group or None,
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            id=run.id,
            resume="allow",
            config={**run.options, "environment": run.facts},
            allow_val_change=True,
            reinit="create_new",
            settings=settings,
        )
        last = {}
        for group in ("train", "valid"):
            # Of our own, as wandb drops what goes back to an earlier step.
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            last[group] = int(self._run.summary.get(f"{group}/step", 0))
        return str(self._run.id), last

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Add numbers to their curves."""
        self._run.log(numbers)

    def end(self, results: dict[str, Any] | None) -> None:
        """End the run; the results are in its summary."""
        if results is not None:
            self._run.summary.update({f"results/{name}": value for name, value in results.items()})
        self._run.finish(exit_code=1 if results is None else 0)
