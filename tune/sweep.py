"""A sweep: all points of a space as Ray Tune trials, resumable, each point once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from trainer import run_directory
from trainer.launch import machine
from trainer.errors import UserError
from trainer.inputs import open_index
from tune.ledger import Ledger, ranked
from tune.space import Point, Space

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 10**6  # evaluations of a run


def sweep(
    space: Space, data: Path, out: Path, *, address: str | None = None, resume: bool = False
) -> list[dict]:
    """Runs what is pending and returns the rows of results.csv.

    address: of a Ray cluster, "auto" for the one of this machine; None starts Ray here.

    Raises:
        UserError, DataError: no data set, a directory that is taken, a trial that asks for more than is.
    """
    ledger = Ledger(out, space.points(), data.absolute(), open_index(data).fingerprint, resume=resume)
    points = ledger.pending()
    print(f"{len(ledger.points)} points, {len(points)} to run: {ledger.out}", file=sys.stderr)
    if points:
        run(space, points, ledger, data.absolute(), address)
    rows = ledger.write()
    print(ranked(rows, space.metric, space.mode))
    return rows


def run(space: Space, points: list[Point], ledger: Ledger, data: Path, address: str | None) -> None:
    """The points on Ray, to their ends."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from tune.trial import TRIAL_CPU, environment, trial

    connect(address, environment(space.gpus_per_trial > 0, ROOT))
    try:
        check_resources(space)
        asha = None
        if space.search == "asha":
            # How long a run may be is the trainer's to say; by itself ASHA ends it at its 100th evaluation.
            asha = ASHAScheduler(metric=space.metric, mode=space.mode, max_t=LONGEST)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": TRIAL_CPU}),
            param_space={"point": tune.grid_search([settings(space, p, ledger, data) for p in points])},
            tune_config=tune.TuneConfig(scheduler=asha, max_concurrent_trials=concurrent(space)),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(ledger.out / "ray"),
                callbacks=[notes(ledger)],
                failure_config=tune.FailureConfig(max_failures=space.retries),
                verbose=1,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()


def settings(space: Space, point: Point, ledger: Ledger, data: Path) -> dict[str, Any]:
    """What a trial is given."""
    return {
        "id": point.id,
        "words": ["--data", str(data), "--run", str(ledger.run(point)), *point.words()],
        "run": str(ledger.run(point)),
        "ended": str(ledger.ended(point.id)),
        "ray": str(ledger.out / "ray"),
        "workers": space.gpus_per_trial or space.workers_per_trial,
        "on_gpu": space.gpus_per_trial > 0,
    }


def notes(ledger: Ledger) -> Any:
    """A Tune callback that notes how trials end, so that the next start knows."""
    from ray.tune import Callback

    class Notes(Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            point = trial.config["point"]
            if not run_directory.is_finished(point["run"]):
                ledger.end(point["id"], "stopped")
            ledger.write()

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            point = trial.config["point"]
            if not Path(point["ended"]).exists():  # else the rank that failed has said why
                ledger.end(point["id"], "failed", f"its processes ended; see {trial.local_path}")
            ledger.write()

    return Notes()


def connect(address: str | None, variables: dict[str, str]) -> None:
    """Joins the cluster (in a submitted job its own), or starts Ray here, on loopback alone. Raises UserError
    where no cluster answers.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    here = {}
    if not address:
        # To free the place of a trial that was stopped Ray asks its dashboard, and finds that only where it
        # is told which Ray is meant: another may run beside it.
        port, dashboard = machine.free_port(), machine.free_port()
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        variables = {**variables, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        here = {"_node_ip_address": "127.0.0.1", "include_dashboard": True, "dashboard_port": dashboard}
    try:
        ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False, **here)
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]})"
        ) from None


def check_resources(space: Space) -> None:
    """Raises UserError where a trial asks for more than the cluster will ever have."""
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if space.gpus_per_trial > gpus:
        raise UserError(f"gpus_per_trial is {space.gpus_per_trial}: the cluster has {gpus} GPUs, {cpus} CPUs")
    if not space.gpus_per_trial and space.workers_per_trial > cpus:
        raise UserError(
            f"workers_per_trial is {space.workers_per_trial}, each on a CPU: the cluster has {cpus} CPUs"
        )


def concurrent(space: Space) -> int:
    """Trials at once: as asked, but no more than there is room for."""
    import ray

    there = ray.cluster_resources()
    if space.gpus_per_trial:
        room = int(there.get("GPU", 0)) // space.gpus_per_trial
    else:
        room = int(there.get("CPU", 0)) // space.workers_per_trial
    return min(space.max_concurrent, room) if space.max_concurrent else room
