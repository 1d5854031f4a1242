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
    the validation split, of cells that are trained, and trainings: how those went; references: test metrics
    of popularity, and of the oracle of a synthetic world.
    """

    wanted: dict[Cell, list[int]]
    ranks: dict[Cell, dict[int, Ranks]] = field(default_factory=dict)
    valid: dict[Cell, dict[int, dict[str, float]]] = field(default_factory=dict)
    trainings: dict[Cell, dict[int, Training]] = field(default_factory=dict)
    references: dict[str, dict[str, float]] = field(default_factory=dict)

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


def read_ranks(folder: Path, runs: list[Path], cell: Cell, data: Path) -> Ranks:
    """Return the test ranks of a cell's run, or of its runs together, as the cell evaluates them.

    Evaluates where they are not there yet.

    Args:
        folder: of ranks that are not a run's own.
        runs: run directories.
        cell: how to evaluate them.
        data: the data set of the runs, wherever it is now.

    Raises:
        UserError: a run cannot be read.
    """
    name = "+".join(run.name for run in runs) + (f"-noise-{cell.noise}" if cell.noise else "")
    name += "" if cell.sampler_steps is None else f"-steps-{cell.sampler_steps}"
    path = run_directory.ranks(runs[0], "test") if cell.is_trained else folder / f"{name}.parquet"
    if not path.exists():
        from trainer.evaluation.command import Request, evaluate_run  # needs torch

        print(f"evaluating {name}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = map(str, runs)
        request = Request(
            first,
            tuple(others),
            data=str(data),
            noise=cell.noise or None,
            sampler_steps=cell.sampler_steps,
            ranks=str(path),
        )
        evaluate_run(request)
    return ranks.read(path)


def read_references(run: Path) -> dict[str, dict[str, float]]:
    """Read the test metrics of popularity, and of the oracle if there is one, from a finished run."""
    results = read_json(run / run_directory.RESULTS)
    return {name: results[name] for name in ("popularity", "oracle") if results[name]}


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
