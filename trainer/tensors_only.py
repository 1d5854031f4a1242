"""Reads DeepSpeed's files, which are pickles, as tensors and plain values alone: they cannot run code."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.errors import UserError

FORCE, FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def tensors_only(checkpoint: Path) -> Iterator[None]:
    """Within, every `torch.load`, DeepSpeed's too, refuses what is neither a tensor nor a plain value.

    Exempt are four classes of DeepSpeed's own, which hold numbers.

    Raises:
        UserError: a file of the checkpoint names anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = {name: os.environ.pop(name, None) for name in (FORCE, FORBID)}
    os.environ[FORCE] = "1"  # wins over DeepSpeed's weights_only=False
    try:
        with torch.serialization.safe_globals(
            [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
        ):
            yield
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        found = name[1] if name else "an unknown object"
        raise UserError(f"{checkpoint} is not read: it holds {found}, which is no tensor") from None
    finally:
        del os.environ[FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
