"""What a study reads of its finished runs: the ranks of every user, learning curves, and how training ended.

Ranks that no run has left, of several runs together or with noise, are made once and kept in OUT/DATA/ranks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from trainer import metrics_file, options, run_directory
from trainer.errors import UserError
from trainer.evaluation import ranks
from trainer.evaluation.ranks import Ranks
from trainer.files import read_json
from tune.designs import Cell

SCORE = "ndcg@10"
STILL_IMPROVING, SCHEDULE_ENDED = "still improving", "schedule ended"


@dataclass(frozen=True)
class Training:
    """How a run went.

    curve: (epoch, validation NDCG@10) of each evaluation, within an epoch a fraction; ending: "stopped
    early", "past its best", "schedule ended" or "still improving".
    """

    curve: list[tuple[float, float]]
    ending: str


@dataclass
class Evidence:
    """What there is of a study on one data set, by cell and seed.

    wanted: the seeds that a cell has in a study that is complete; ranks: of the test split; valid: metrics of
    the validation split, of cells that are trained, and trainings: how those went.
    """

    wanted: dict[Cell, list[int]]
    ranks: dict[Cell, dict[int, Ranks]] = field(default_factory=dict)
    valid: dict[Cell, dict[int, dict[str, float]]] = field(default_factory=dict)
    trainings: dict[Cell, dict[int, Training]] = field(default_factory=dict)

    def add_ranks(self, cell: Cell, seed: int, ranks: Ranks) -> None:
        """Add the ranks of a cell.

        Raises:
            UserError: of other users, or on other data, than those that are there.
        """
        for there in (ranks for of_seed in self.ranks.values() for ranks in of_seed.values()):
            if ranks.facts.fingerprint != there.facts.fingerprint or not ranks.user.equals(there.user):
                raise UserError("ranks other users than the runs before, or the data set was another one")
            break
        self.ranks.setdefault(cell, {})[seed] = ranks

    def seeds(self, cell: Cell) -> list[int]:
        """Return the seeds that a cell has until now."""
        return list(self.ranks.get(cell, {}))

    @property
    def missing(self) -> int:
        """How many evaluations are not there yet."""
        return sum(len(seeds) - len(self.seeds(cell)) for cell, seeds in self.wanted.items())


def read_ranks(folder: Path, runs: list[Path], noise: float) -> Ranks:
    """Return the test ranks of a run, or of several together, with noise on the features or without.

    Evaluates where they are not there yet.

    Args:
        folder: of ranks that are not a run's own.
        runs: run directories.
        noise: in standard deviations.

    Raises:
        UserError: a run cannot be read.
    """
    alone = len(runs) == 1 and not noise
    name = "+".join(run.name for run in runs) + (f"-noise-{noise}" if noise else "")
    path = run_directory.ranks(runs[0], "test") if alone else folder / f"{name}.parquet"
    if not path.exists():
        from trainer.evaluation.command import Request, evaluate_run  # needs torch

        print(f"evaluating {name}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = map(str, runs)
        request = Request(first, tuple(others), noise=noise or None, ranks=str(path))
        evaluate_run(request)
    return ranks.read(path)


def read_training(run: Path) -> Training:
    """Read how a finished run went.

    Where it ended at its last epoch and was best there, more epochs might have made it better. With a rate
    that has come down to 0 they could not, as they would have been another schedule.
    """
    results, config = read_json(run / run_directory.RESULTS), options.load_run(run)
    records = [
        record for record in metrics_file.read(run / run_directory.METRICS) if record.get("split") == "valid"
    ]
    steps = results["steps"] / max(results["epochs"], 1)  # of an epoch
    curve = [(record["step"] / max(steps, 1), record[SCORE]) for record in records]
    if results["stopped"]:
        ending = "stopped early"
    elif not records or results["best_step"] != records[-1]["step"]:
        ending = "past its best"
    else:
        ending = STILL_IMPROVING if config.train.decay == "constant" else SCHEDULE_ENDED
    return Training(curve, ending)
