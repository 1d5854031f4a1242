"""A loss or a gradient that is not finite ends the run before the weights change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer import runs

# weight and targets of a step; see `square_root_steps.py`
STEPS = {"fine": [3.0, [1, 2]], "gradient": [2.0, [1, 2]], "loss": [2.0, [1, 5, 1]]}


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
    assert failure is None and weight == pytest.approx(2.5)


def test_a_finite_loss_with_a_gradient_that_is_not(ended: dict) -> None:
    failure, weight = ended["gradient"]
    assert failure.startswith("the gradient is not finite at epoch 1, step 4, though the loss is")
    assert weight == 2.0


def test_the_rows_of_a_loss_that_is_not_finite_are_named(ended: dict) -> None:
    failure, weight = ended["loss"]
    assert failure == "loss nan is not finite at epoch 1, step 4: sample ids 11 (user 11)"
    assert weight == 2.0
