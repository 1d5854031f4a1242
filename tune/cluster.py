"""The Ray cluster of a sweep: joining or starting it, and how many trials fit on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from trainer.cpu import PASSIVE
from trainer.errors import UserError
from trainer.launch import machine
from trainer.source import ROOT
from tune.guard import Guard
from tune.space import Space


def connect(address: str | None, *, on_gpu: bool, variables: dict[str, str]) -> Guard | None:
    """Join the cluster (in a submitted job its own), or start Ray here, on loopback alone.

    `variables` are environment variables of every worker beside our own. Returns the guard of a Ray that was
    started here.

    Raises:
        UserError: no cluster answers at that address.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    variables = {**worker_variables(on_gpu), **variables}
    settings: dict[str, Any] = {}
    guard = None
    if not address:
        guard = Guard()
        # To free the resources of a stopped trial Ray asks its dashboard, and finds that only where it knows
        # which Ray is meant: another may run on this machine.
        port, dashboard = machine.free_port(), machine.free_port()
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        variables["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        settings = {"_node_ip_address": "127.0.0.1", "include_dashboard": True, "dashboard_port": dashboard}
    try:
        ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False, **settings)
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]})"
        ) from None
    return guard


def worker_variables(on_gpu: bool) -> dict[str, str]:
    """Return the environment variables of every worker."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**PASSIVE, "PYTHONPATH": path}
    if not on_gpu:
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return variables


def check_resources(space: Space) -> None:
    """Check that the cluster can run a trial.

    Raises:
        UserError: a trial needs more than the whole cluster has.
    """
    cpus, gpus = _resources()
    if space.gpus_per_trial > gpus:
        raise UserError(f"gpus_per_trial is {space.gpus_per_trial}: the cluster has {gpus} GPUs, {cpus} CPUs")
    if not space.gpus_per_trial and space.workers_per_trial > cpus:
        raise UserError(
            f"workers_per_trial is {space.workers_per_trial}, each on a CPU: the cluster has {cpus} CPUs"
        )


def concurrent_trials(space: Space) -> int:
    """Return how many trials run at once: as many as fit, or `max_concurrent` if that is fewer."""
    cpus, gpus = _resources()
    fit = gpus // space.gpus_per_trial if space.gpus_per_trial else cpus // space.workers_per_trial
    return min(space.max_concurrent, fit) if space.max_concurrent else fit


def _resources() -> tuple[int, int]:
    """Return the CPUs and GPUs of the cluster."""
    import ray

    cluster_resources: Callable[[], dict[str, float]] = ray.cluster_resources  # Ray gives it no types
    resources = cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
