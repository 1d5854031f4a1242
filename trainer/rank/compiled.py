"""The forward pass of training through torch.compile, which also makes its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.experimental import _config as symbolic_sizes

import mealrec
from trainer.errors import UserError

WITH_A_BREAK = ("gru4rec",)
"""Backbones with a part that torch.compile leaves to PyTorch: here its GRU, which is one operator already."""


def compile_losses(model: mealrec.MealRec, **how: Any) -> None:
    """Compile `model.losses` at its first call, for batches of any size. Evaluation is not compiled.

    how: `mode` or `backend` of torch.compile. Where batches need more graphs than its `recompile_limit` of 8
    the run ends; PyTorch alone would go on without compiling.

    Raises:
        UserError: nothing can be compiled for the model's device.
    """
    _try(model.position.device, **how)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # Two sizes that are equal in the first batch, as rows and positions may be, are no rule for the others.
    symbolic_sizes.use_duck_shape = False
    whole = model.config.backbone.name not in WITH_A_BREAK
    compiled = torch.compile(model.losses, fullgraph=whole, dynamic=True, **how)
    model.losses = compiled  # type: ignore[method-assign]


def _try(device: torch.device, **how: Any) -> None:
    """Compile a small function, as only that shows whether compilers are there and know the device."""
    try:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True, **how)(torch.ones(8, device=device))
    except Exception as error:
        # The first line names the backend, the second one its error.
        reason = " ".join(str(error).split("\n")[:2])
        raise UserError(f"--train.compile: torch.compile does not work on {device}: {reason}") from error
