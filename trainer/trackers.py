"""What --train.track may name: trackers of experiments, whose libraries need not be installed."""

from __future__ import annotations

import importlib.util

from trainer.errors import UserError, line_of

# How a tracker finds its server, and its names, for ranks on other hosts. Keys and passwords are not among
# them, as they would be seen in the list of processes.
VARIABLES = (
    "WANDB_MODE",
    "WANDB_BASE_URL",
    "WANDB_ENTITY",
    "WANDB_PROJECT",
    "WANDB_DIR",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_ALLOW_FILE_STORE",
)


def check(name: str) -> None:
    """Check that a run can be tracked by `name`: "none", "wandb" or "mlflow".

    Raises:
        UserError: its library is not installed, or it has no login. No server is asked.
    """
    if name == "none":
        return
    spec = importlib.util.find_spec(name)
    if (
        spec is None or spec.origin is None
    ):  # a folder of that name, as wandb itself writes one, has no origin
        raise UserError(f'--train.track {name} needs {name}, not installed: pip install "mealrec[{name}]"')
    if name == "wandb":
        _check_login()


def _check_login() -> None:
    """Raises UserError where wandb would ask for a key, which a rank cannot answer."""
    import wandb

    try:
        known = wandb.setup().settings.mode != "online" or wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UserError(f"--train.track wandb: {line_of(error)}") from None
    if not known:
        raise UserError("--train.track wandb: no login: run `wandb login`, or set WANDB_MODE=offline")
