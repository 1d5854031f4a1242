"""A loss or a gradient that is not finite ends the run before the weights change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer import runs

# Batches that weigh 2 takes badly: the root of 0 has no gradient, and that of -3 does not exist.
FINE, NO_GRADIENT, NO_LOSS = [1, 0], [1, 2], [1, 5]
# weight, batches, ZeRO stage, whether batches may be left out; see `square_root_steps.py`
STEPS = {
    "fine": [2.0, [FINE], 0, False],
    "gradient": [2.0, [NO_GRADIENT], 0, False],
    "loss": [2.0, [NO_LOSS], 0, False],
    **{f"fine {stage}": [2.0, [FINE, FINE], stage, False] for stage in range(4)},
    **{f"skipped {stage}": [2.0, [NO_LOSS, FINE, NO_GRADIENT, FINE], stage, True] for stage in range(4)},
}


@pytest.fixture(scope="module")
def ended(cache: Path) -> dict[str, tuple[str | None, float]]:
    """Failure and weight after each of STEPS."""
    script = str(Path(__file__).with_name("square_root_steps.py"))
    (rank,) = runs.start(1, [script, json.dumps(STEPS)], cache)
    output, errors = rank.communicate(timeout=120)
    assert rank.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


def test_a_finite_step_moves_the_weight(ended: dict) -> None:
    failure, weight = ended["fine"]
    assert failure is None and weight == pytest.approx(1.5)


def test_a_finite_loss_with_a_gradient_that_is_not(ended: dict) -> None:
    failure, weight = ended["gradient"]
    assert failure.startswith("the gradient is not finite at epoch 1, step 4, though the loss is")
    assert weight == 2.0


def test_the_rows_of_a_loss_that_is_not_finite_are_named(ended: dict) -> None:
    failure, weight = ended["loss"]
    assert failure == "loss nan is not finite at epoch 1, step 4: sample ids 11 (user 11)"
    assert weight == 2.0


@pytest.mark.parametrize("stage", range(4))
def test_a_batch_that_is_left_out_changes_nothing(ended: dict, stage: int) -> None:
    """Neither weight nor moments: the steps that follow are those of a run without it."""
    assert ended[f"skipped {stage}"] == ended[f"fine {stage}"]
    assert ended[f"fine {stage}"][1] < 1.5


def test_the_budget_of_batches_left_out(workplace: Path, data: Path, cache: Path) -> None:
    """A rate that makes each loss overflow: two batches are left out and counted, the third ends the run."""
    run = workplace / "skipping"
    command = runs.arguments(run, data, train__lr=1e18, train__warmup_steps=0, train__nonfinite_budget=2)
    (rank,) = runs.start(1, ["-m", "trainer", *command], cache)
    _, errors = rank.communicate(timeout=120)
    assert rank.returncode == 1 and errors.count("left out a batch: ") == 2
    assert errors.count("error: ") == 1 and "is not finite at epoch 1, step" in errors.splitlines()[-1]
