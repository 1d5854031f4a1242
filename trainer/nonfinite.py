"""A loss or gradient that is not finite ends the run before it reaches the weights, and the message names
the rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from trainer import dist

if TYPE_CHECKING:
    from trainer.step import Batch, TrainStep

SHOWN_ROWS = 8


class NonFiniteError(RuntimeError):
    """The run ends with exit code 1; the last checkpoint holds the weights of an earlier step."""


def check(
    loss: float, norm: float, train_step: TrainStep, batches: list[Batch], epoch: int, step: int
) -> None:
    """Raises NonFiniteError on every rank if the global `loss` or the gradient's `norm` is not finite."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    if math.isfinite(loss):
        refuse_gradient(epoch, step)
    rows = [row for batch in batches for row in offending_rows(train_step, batch)]
    rows = sorted({row for part in dist.gather_objects(rows) for row in part})
    users = ", ".join(f"{row} (user {train_step.name_user(row)})" for row in rows[:SHOWN_ROWS])
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    where = f"sample ids {users}{more}" if rows else "no single row: only their sum is too large"
    hint = "" if _weights_finite(train_step) else "; weights are not finite: a smaller --train.lr may help"
    raise NonFiniteError(f"loss {loss} is not finite at epoch {epoch + 1}, step {step + 1}: {where}{hint}")


def refuse_gradient(epoch: int, step: int) -> None:
    """Raises NonFiniteError: the loss was finite, its gradient was not, and the optimiser has not used it."""
    raise NonFiniteError(
        f"the gradient is not finite at epoch {epoch + 1}, step {step + 1}, though the loss is:"
        " a smaller --train.lr may help"
    )


def offending_rows(train_step: TrainStep, batch: Batch) -> list[int]:
    """The sample ids whose own loss is not finite: every real row goes through the model alone.

    All ranks pass equally many rows, since with ZeRO-3 each pass gathers parameters from all of them.
    """
    found = []
    most = max(dist.gather_objects(len(batch["item"])))
    per_row = {"sample_id", "offset", "item", "target", "weight", "feature_row"}
    for index in range(most):
        row = min(index, len(batch["item"]) - 1)
        alone = {name: value[row : row + 1] if name in per_row else value for name, value in batch.items()}
        with torch.no_grad():
            losses = train_step.engine(alone)
        if float(alone["weight"]) and not all(bool(torch.isfinite(loss)) for loss in losses.values()):
            found.append(int(alone["sample_id"]))
    return found


def _weights_finite(train_step: TrainStep) -> bool:
    """Whether all weights are finite, over all ranks (each sees its own part with ZeRO-3)."""
    mine = all(bool(torch.isfinite(getattr(p, "ds_tensor", p)).all()) for p in train_step.model.parameters())
    return all(dist.gather_objects(mine))
