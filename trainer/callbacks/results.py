"""results.json and the final table: the best weights on both splits, between popularity and oracle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer import rundir
from trainer.callbacks.base import Callback
from trainer.callbacks.evaluation import Evaluation
from trainer.loop import Loop

SHOWN = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr")


class Results(Callback):
    """At the end, evaluates the best weights and writes results.json, the last file of a run (rank 0)."""

    def __init__(
        self,
        path: Path,
        final: Callable[[], dict[str, Any]],
        evaluation: Evaluation,
        *,
        is_main: bool,
        facts: dict[str, Any],
    ) -> None:
        """
        Args:
            final: evaluates the best weights; every rank calls it: "valid", "test", "popularity", "oracle",
                each the
                metrics or None.
            facts: fingerprint, seed and world_size.
        """
        self.path, self.final, self.evaluation, self.is_main, self.facts = (
            path,
            final,
            evaluation,
            is_main,
            facts,
        )

    def on_end(self, loop: Loop) -> None:
        found, progress = self.final(), loop.progress
        test = found["test"]
        if test:
            best = self.evaluation.best or {
                "epoch": progress.epoch,
                "step": progress.step,
                "samples": progress.samples,
            }
            place = {name: best[name] for name in ("step", "epoch", "samples")}
            loop.tell("on_evaluation", {**place, "split": "test", **test})
        if not self.is_main:
            return
        results = {
            **{name: found[name] for name in ("valid", "test", "popularity", "oracle")},
            "valid_in_training": _metrics(self.evaluation.best),
            "best_step": self.evaluation.best["step"] if self.evaluation.best else progress.step,
            **self.facts,
            "epochs": progress.epoch,
            "steps": progress.step,
            "stopped": progress.stopped or None,
            "seconds": round(progress.seconds, 3),
        }
        rundir.write_json(self.path, results)
        print(table(results), file=sys.stderr, flush=True)


def table(results: dict[str, Any]) -> str:
    """Floor, result and ceiling of the test split, with the validation split above them."""
    valid, test = results["valid"], results["test"]
    rows = [
        ("validation, in training", results["valid_in_training"]),
        ("validation", valid),
        ("test: popularity", results["popularity"]),
        ("test: MealRec", test),
        ("test: oracle", results["oracle"]),
    ]
    lines = [f"{'':24}" + "".join(f"{name:>9}" for name in SHOWN)]
    for name, row in rows:
        if row:
            lines.append(f"{name:24}" + "".join(f"{row[m]:9.4f}" if m in row else f"{'-':>9}" for m in SHOWN))
    users = f"{test['users']} users, " if test else "no test users, "
    return "\n".join([*lines, f"{users}{results['epochs']} epochs, {results['seconds']:.0f} s"])


def _metrics(record: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: record[name] for name in (*SHOWN, "users")} if record else None
