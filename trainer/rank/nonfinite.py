"""A loss or gradient that is not finite ends the run, or its batch is left out; the weights never see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, cast

import torch

from mealrec import Batch
from trainer import distributed
from trainer.errors import RunEnded

SHOWN_ROWS = 8
WHOLE_BATCH = ("real_index", "target_index")  # the model finds those of one row
PER_ROW = ("sample_id", "offset", "item", "target", "weight", "feature_row")

Losses = Mapping[str, torch.Tensor]


class NonFiniteError(RunEnded):
    """The run ends with exit code 1; the last checkpoint holds the weights of an earlier step."""


def refuse_loss(
    loss: float,
    place: str,
    batches: list[Batch],
    *,
    losses_of: Callable[[Batch], Losses],
    parameters: Iterable[torch.nn.Parameter],
    name_user: Callable[[int], object],
) -> NoReturn:
    """End the run on every rank because the global `loss` is not finite.

    Args:
        place: epoch and step, for the message.
        batches: this rank's micro-batches.
        losses_of: the model's losses of a batch; every rank calls it equally often.
        parameters: of the model.
        name_user: sample_id -> the user's original id.

    Raises:
        NonFiniteError: names the rows whose own loss is not finite.
    """
    rows = [row for batch in batches for row in offending_rows(losses_of, batch)]
    rows = sorted({row for part in distributed.gather_objects(rows) for row in part})
    users = ", ".join(f"{row} (user {name_user(row)})" for row in rows[:SHOWN_ROWS])
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    where = f"sample ids {users}{more}" if rows else "no single row: only their sum is too large"
    hint = "" if _all_finite(parameters) else "; weights are not finite: a smaller --train.lr may help"
    raise NonFiniteError(f"loss {loss} is not finite at {place}: {where}{hint}")


def refuse_gradient(place: str) -> NoReturn:
    """End the run because the loss was finite and its gradient was not; the optimiser has not used it.

    Raises:
        NonFiniteError: always.
    """
    raise NonFiniteError(
        f"the gradient is not finite at {place}, though the loss is: a smaller --train.lr may help"
    )


def offending_rows(losses_of: Callable[[Batch], Losses], batch: Batch) -> list[int]:
    """Return the sample ids whose own loss is not finite: every real row goes through the model alone.

    All ranks pass equally many rows, since with ZeRO-3 each pass gathers parameters from all of them.
    """
    offending = []
    most = max(distributed.gather_objects(len(batch["item"])))
    for index in range(most):
        row = min(index, len(batch["item"]) - 1)
        fields = cast(dict[str, torch.Tensor], batch).items()
        alone = cast(
            Batch,
            {
                name: value[row : row + 1] if name in PER_ROW else value
                for name, value in fields
                if name not in WHOLE_BATCH
            },
        )
        with torch.no_grad():
            losses = losses_of(alone)
        if float(alone["weight"]) and not all(math.isfinite(float(loss)) for loss in losses.values()):
            offending.append(int(alone["sample_id"]))
    return offending


def _all_finite(parameters: Iterable[torch.nn.Parameter]) -> bool:
    """Whether all weights are finite, over all ranks (each sees its own part with ZeRO-3)."""
    mine = all(bool(torch.isfinite(getattr(p, "ds_tensor", p)).all()) for p in parameters)
    return all(distributed.gather_objects(mine))
