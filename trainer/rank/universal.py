"""Checkpoints of ZeRO 1 to 3 for another number of ranks, in DeepSpeed's universal form."""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.tensors_only import tensors_only

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

UNIVERSAL = ".universal"
LATEST_UNIVERSAL = "latest_universal"  # a note of DeepSpeed's converter
# Part of a checkpoint's client state: without it DeepSpeed does not convert one of ZeRO 2.
UNIVERSAL_INFO = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


def to_universal(checkpoint: Path) -> Path:
    """Convert a checkpoint of ZeRO 1 to 3 to DeepSpeed's universal form, beside it.

    Raises:
        UserError: it holds more than tensors.
    """
    from deepspeed.checkpoint import ds_to_universal

    output = checkpoint.with_name(checkpoint.name + UNIVERSAL)
    shutil.rmtree(output, ignore_errors=True)
    settings = argparse.Namespace(
        input_folder=str(checkpoint),
        output_folder=str(output),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with (
        tensors_only(checkpoint),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        ds_to_universal.main(settings)
    return output


def remove_universal(checkpoint: Path) -> None:
    """Remove what `to_universal` made of a checkpoint."""
    shutil.rmtree(checkpoint.with_name(checkpoint.name + UNIVERSAL))
    checkpoint.with_name(LATEST_UNIVERSAL).unlink(missing_ok=True)


def group_settings(engine: DeepSpeedEngine) -> list[dict[str, Any]]:
    """Return weight decay and the like of each parameter group."""
    groups = engine.optimizer.param_groups
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def mend_optimizer(engine: DeepSpeedEngine, settings: list[dict[str, Any]]) -> None:
    """Undo two faults of DeepSpeed 0.19.8's universal ZeRO-3 load with more than one parameter group.

    It gives every group the settings of the first one (so that embeddings decay), and all partitions the same
    tensor for AdamW's step count, which each of them then advances.
    """
    for group, own in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(own)
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in base.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()
