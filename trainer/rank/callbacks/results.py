"""results.json and the final table: the best weights on both splits, beside popularity and the oracle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer import files
from trainer.evaluation.evaluate import Metrics
from trainer.evaluation.results import FinalResults
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.loop import Loop

SHOWN = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr")


@dataclass(frozen=True)
class RunFacts:
    """What results.json says of the run besides its metrics."""

    fingerprint: str
    seed: int
    world_size: int


class Results(Callback):
    """At the end, evaluates the best weights and writes results.json, the last file of a run (rank 0)."""

    def __init__(
        self,
        path: Path,
        evaluate_best: Callable[[], FinalResults],
        evaluation: Evaluation,
        *,
        is_main: bool,
        facts: RunFacts,
    ) -> None:
        """Set what is evaluated and where the results go.

        Args:
            evaluate_best: evaluates the best weights; every rank calls it.
        """
        self.path, self.evaluate_best, self.evaluation = path, evaluate_best, evaluation
        self.is_main, self.facts = is_main, facts

    def on_end(self, loop: Loop) -> None:
        final, progress = self.evaluate_best(), loop.progress
        if final.test:
            best = self.evaluation.best or {
                "epoch": progress.epoch,
                "step": progress.step,
                "samples": progress.samples,
            }
            when = {name: best[name] for name in ("step", "epoch", "samples")}
            loop.tell("on_evaluation", {**when, "split": "test", **final.test})
        if not self.is_main:
            return
        results = {
            **asdict(final),
            "valid_in_training": _metrics(self.evaluation.best),
            "best_step": self.evaluation.best["step"] if self.evaluation.best else progress.step,
            **asdict(self.facts),
            "epochs": progress.epoch,
            "steps": progress.step,
            "skipped": progress.skipped,
            "stopped": progress.stopped or None,
            "seconds": round(progress.seconds, 3),
            "guards": (self.evaluation.best or {}).get("guards", {}),
        }
        files.write_json(self.path, results)
        print("\n".join([table(results), *unskilled(results["guards"])]), file=sys.stderr, flush=True)
        loop.tell("on_results", results)


def table(results: dict[str, Any]) -> str:
    """Return the table: floor, result and ceiling on the test split, the validation split above them."""
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


def unskilled(guards: dict[str, float]) -> list[str]:
    """Return a warning for each denoiser that a linear map beats at middle or high noise."""
    lines = []
    for module in ("tcd", "npd"):
        skill = {level: guards.get(f"{module}_skill_{level}_linear", 0.0) for level in ("middle", "high")}
        worse = " and ".join(
            f"{-100 * value:.0f} % at {level}" for level, value in skill.items() if value < 0
        )
        if worse:
            error = f"its error is above a linear map's by {worse} noise"
            lines.append(f"warning: {module.upper()} does not denoise: {error}")
    return lines


def _metrics(record: Metrics | None) -> Metrics | None:
    return {name: record[name] for name in (*SHOWN, "users")} if record else None
