"""Operators and waits of a training step, by precision and ZeRO stage.

    python -m bench.operators [--data DIR --preset microlens] [-- OPTIONS]

Counted on the CPU, where they are the same as on a GPU but for its kernels: views and empty buffers are left
out, an operator over a list of tensors is one. A wait is a number that the host reads; the checks of random
counters, which read numbers on the CPU alone, are left out. Counts, no times.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from bench import race
from bench.command import run_command
from bench.contestants import ours
from bench.report import Report
from trainer import ds_config, prepare
from trainer.inputs import Inputs

WARM_UP = 1
CASES = {
    "fp32, ZeRO 0": ("--train.precision", "fp32"),
    "fp32, ZeRO 1": ("--train.precision", "fp32", "--train.zero_stage", "1"),
    "bf16, ZeRO 0": ("--train.precision", "bf16"),
    "bf16, ZeRO 1": ("--train.precision", "bf16", "--train.zero_stage", "1"),
}
DEEPSPEEDS_OWN = "bf16, ZeRO 0, DeepSpeed's own"
NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}
READ, CHECKED = "_local_scalar_dense", "aminmax"


class Operators(TorchDispatchMode):
    """Counts operators by name, and those that make views as `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.name().partition("::")[2].partition(".")[0]
        self.calls["view" if operator.is_view else name] += 1
        return operator(*args, **kwargs or {})


def main() -> None:
    """Count each case in a process of its own, print and write the table."""
    if sys.argv[1:2] == ["--case"]:
        print(*count(sys.argv[2], sys.argv[3:]), sep=",")
        return
    settings, options = race.parse(race.arguments("operators", __doc__, rounds=1, seconds=0))
    report = Report(settings.out)
    for case in (*CASES, DEEPSPEEDS_OWN):
        done = subprocess.run(
            [sys.executable, "-m", "bench.operators", "--case", case, *options],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | {"DS_ACCELERATOR": "cpu"},
        )
        optimizer, operators, waits = done.stdout.splitlines()[-1].split(",")
        report.add(case=case, optimiser=optimizer, **{"operators/step": int(operators), "waits": int(waits)})
    report.close()


def count(case: str, options: list[str]) -> tuple[str, int, int]:
    """The optimiser as DeepSpeed wraps it, operators and waits of a step."""
    from trainer import distributed
    from trainer.rank import engine
    from trainer.rank.step import TrainStep

    config = race.config_of([*options, *CASES.get(case, CASES["bf16, ZeRO 0"])])
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    ours.choose_port()
    inputs = Inputs(config.data, config.model, distributed.init(), config.seed)
    settings = ds_config.engine_config(config, batching, on_gpu=False, has_bf16=True, run_dir=None)
    if case == DEEPSPEEDS_OWN:
        del settings["torch_autocast"]
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
    built = engine.build(inputs.build_model(), config.train, settings)
    step = TrainStep(built, inputs.world, on_device=inputs.on_device, learning_rates=None)
    steps = inputs.train_stream(batching).epoch(0)
    for number in range(WARM_UP):
        step(next(steps), 0, number)
    batch = next(steps)
    with Operators() as counted:
        step(batch, 0, WARM_UP)
    calls = counted.calls
    work = sum(calls[name] for name in calls if name not in NO_WORK | {"view", READ})
    # Both ends of a range are read for each check. The loss is read once more, as a list of numbers.
    return type(built.optimizer).__name__, work, calls[READ] - 2 * calls[CHECKED] + 1


if __name__ == "__main__":
    run_command(main)
