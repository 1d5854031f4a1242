"""A sweep: all points of a space as Ray Tune trials, resumable, each point once."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import run_directory
from trainer.inputs import open_index
from tune import cluster, tracking
from tune.ledger import RANKED, Ledger, Outcome
from tune.ranking import as_text, ranked, summary
from tune.rows import Row, write_rows
from tune.space import Point, Space
from tune.trial import TrialSettings, resources, trial

if TYPE_CHECKING:
    from ray.tune import Callback

MAX_EVALUATIONS = 10**6  # of a run


def sweep(
    space: Space, data: Path, out: Path, *, address: str | None = None, resume: bool = False
) -> list[Row]:
    """Run the pending points, rank all that have ended, and return the rows of results.csv.

    Args:
        space: what to try.
        data: data set of all trials.
        out: directory of the sweep.
        address: of a Ray cluster, "auto" for the one of this machine; None starts Ray here.
        resume: continue the sweep in `out`.

    Raises:
        UserError, DataError: no data set, a directory that is taken, a trial that needs more than there is.
    """
    tracking.check(space.points())
    ledger = Ledger(out, space.points(), data.absolute(), open_index(data).fingerprint, resume=resume)
    points = ledger.pending()
    print(f"{len(ledger.points)} points, {len(points)} to run: {ledger.out}", file=sys.stderr)
    if points:
        run_points(space, points, ledger, data.absolute(), address)
    rows = ledger.write()
    if ranking := ranked(rows, space.metric, space.mode, ledger.out):
        write_rows(ledger.out / RANKED, ranking)
        print(as_text(ranking, space.metric))
    print(summary(rows))
    return rows


def run_points(space: Space, points: list[Point], ledger: Ledger, data: Path, address: str | None) -> None:
    """Run points on Ray until all have ended."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    variables = tracking.variables(points, tracking.group_of(ledger.out))
    guard = cluster.connect(address, on_gpu=space.gpus_per_trial > 0, variables=variables)
    try:
        cluster.check_resources(space)
        asha = None
        if space.search == "asha":
            # The trainer decides how long a run may be; ASHA's default would end it at its 100th evaluation.
            asha = ASHAScheduler(metric=space.metric, mode=space.mode, max_t=MAX_EVALUATIONS)
        settings = [trial_settings(space, point, ledger, data) for point in points]
        asked = resources(settings[0].workers, on_gpu=settings[0].on_gpu)
        tuner = tune.Tuner(
            tune.with_resources(trial, asked),
            param_space={"point": tune.grid_search([asdict(one) for one in settings])},
            tune_config=tune.TuneConfig(
                scheduler=asha, max_concurrent_trials=cluster.concurrent_trials(space)
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(ledger.out / "ray"),
                callbacks=[record_outcomes(ledger)],
                failure_config=tune.FailureConfig(max_failures=space.retries),
                verbose=1,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
        if guard is not None:
            guard.close()


def trial_settings(space: Space, point: Point, ledger: Ledger, data: Path) -> TrialSettings:
    """Return the settings of a point's trial."""
    run = str(ledger.run(point))
    return TrialSettings(
        id=point.id,
        arguments=["--data", str(data), "--run", run, *point.arguments()],
        run=run,
        outcome=str(ledger.outcome_file(point.id)),
        ray=str(ledger.out / "ray"),
        workers=space.gpus_per_trial or space.workers_per_trial,
        on_gpu=space.gpus_per_trial > 0,
        group=tracking.group_of(ledger.out),
    )


def record_outcomes(ledger: Ledger) -> Callback:
    """Make a Tune callback that records how trials end, for the next start and for results.csv."""
    from ray.tune import Callback
    from ray.tune.experiment import Trial

    class RecordOutcomes(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
            settings = TrialSettings(**trial.config["point"])
            if not run_directory.is_finished(settings.run):
                Outcome("stopped").write(settings.outcome)
            ledger.write()

        def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
            settings = TrialSettings(**trial.config["point"])
            if not Path(settings.outcome).exists():  # else the failed rank has written the cause
                Outcome("failed", f"its processes ended; see {trial.local_path}").write(settings.outcome)
            ledger.write()

    return RecordOutcomes()
