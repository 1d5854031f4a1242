"""A run's weights as a plain state dict in fp32, from a checkpoint of any ZeRO stage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mealrec import MealRec, MealRecConfig
from trainer import checkpoint_files, files, options, run_directory
from trainer.checkpoint_files import WEIGHTS, CheckpointFacts, Damaged, check_file
from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.tensors_only import tensors_only

ITEM_TABLE = "item"  # the parameter with one row per video; row 0 is the padding
ITEM_BIAS = "bias"  # the parameter with one value per video
POSITION_TABLE = "position"  # the parameter with one row per position
ITEMS = "items.npy"  # the run's own copy of the original item ids: its data set may be gone one day

Ids = np.ndarray | Sequence[int] | Sequence[str]


@dataclass(frozen=True)
class Weights:
    """Weights, and what their checkpoint says of itself.

    `state`: fp32 tensors by parameter name, on the CPU.
    """

    state: dict[str, torch.Tensor]
    facts: CheckpointFacts

    @property
    def model_config(self) -> MealRecConfig:
        """The configuration of the model that these weights belong to."""
        return model_config_from(self.facts.model)

    def model(self, inputs: Inputs) -> MealRec:
        """Return a plain model with these weights on the device of `inputs`.

        Raises:
            UserError: they do not fit the model that follows from `inputs`.
        """
        model = inputs.build_model().to(inputs.world.device)
        load_into(model, self.state)
        return model


def load(run: str | Path, which: Literal["best", "last"] = "best") -> Weights:
    """Return the best weights of a run by validation NDCG@10 (the last where there is no best), or the last.

    Raises:
        UserError: no run there, no checkpoint yet, or a damaged one.
    """
    checkpoint = find(Path(run), which)
    facts = CheckpointFacts.read(checkpoint)
    if facts.files is None:
        return Weights(_from_deepspeed(checkpoint, facts.zero_stage), facts)
    facts.check(checkpoint, [WEIGHTS])
    try:
        return Weights(load_file(checkpoint / WEIGHTS), facts)
    except SafetensorError as error:
        raise Damaged(f"{checkpoint / WEIGHTS} is no file of safetensors: {error}") from None


def find(run: Path, which: Literal["best", "last"]) -> Path:
    """Return the folder of the best or the last checkpoint of a run.

    Raises:
        UserError: no run there, or no such checkpoint.
    """
    folder = run / run_directory.CHECKPOINTS
    if not (run / run_directory.CONFIG).is_file():
        raise UserError(f"{run} holds no run: no {run_directory.CONFIG} there")
    checkpoint = checkpoint_files.best(folder) if which == "best" else checkpoint_files.newest(folder)
    if checkpoint is None:
        raise UserError(f"{run} has no checkpoint yet")
    return checkpoint


def load_into(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Set all parameters of a plain model. Buffers stay as the model made them.

    Raises:
        UserError: a parameter is missing, unknown, or of another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in state or state[name].shape != parameter.shape:
            shape = tuple(state[name].shape) if name in state else "nothing"
            raise UserError(f"weight {name}: found {shape}, expected {tuple(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(state[name])


def match_items(old_ids: Ids, new_ids: Ids) -> np.ndarray:
    """Return for each new video its row in the old table, from 1, or -1; int64 [I]."""
    row: dict[object, int] = {original: number for number, original in enumerate(_plain(old_ids), start=1)}
    return np.array([row.get(original, -1) for original in _plain(new_ids)], dtype=np.int64)


def keep_ids(run: Path, item_ids: Ids) -> None:
    """Write the run's own copy of the original item ids."""
    with files.replacing(run / ITEMS) as partial:
        partial.write_bytes(_as_file(item_ids))


def ids_sha256(item_ids: Ids) -> str:
    """Return the sha256 of the file that `keep_ids` writes."""
    return hashlib.sha256(_as_file(item_ids)).hexdigest()


def original_ids(run: str | Path, facts: CheckpointFacts) -> np.ndarray:
    """Return the original item ids of the run that a checkpoint belongs to, row j = video j+1.

    Raises:
        UserError: they are missing, or not what was written.
    """
    path = Path(run) / ITEMS
    if facts.items is not None:
        check_file(path, facts.items)
    try:
        ids: np.ndarray = np.load(path, allow_pickle=False)
        return ids
    except (OSError, ValueError, EOFError):
        raise UserError(f"{run}: {ITEMS} cannot be read: the original ids of the run's videos") from None


def model_config_from(saved: dict[str, Any]) -> MealRecConfig:
    """Return a MealRecConfig from its `asdict`; an option that did not exist yet has its default.

    Raises:
        UserError: a value of another type.
    """
    config = MealRecConfig()
    for leaf in options.leaves(MealRecConfig):
        *groups, last = leaf.name.split(".")
        group: Any = saved
        for name in groups:
            group = group.get(name, {}) if isinstance(group, dict) else {}
        if isinstance(group, dict) and last in group:
            options.put(config, leaf.name, leaf.parse(str(group[last])))
    return config


def _from_deepspeed(checkpoint: Path, zero_stage: int) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that is older than `WEIGHTS`, in fp32."""
    with tensors_only(checkpoint):
        if zero_stage == 0:
            state = torch.load(checkpoint / "mp_rank_00_model_states.pt", map_location="cpu")["module"]
        else:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return {name: tensor.float() for name, tensor in state.items()}


def _as_file(ids: Ids) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(ids), allow_pickle=False)
    return file.getvalue()


def _plain(ids: Ids) -> Sequence[object]:
    return ids.tolist() if isinstance(ids, np.ndarray) else ids
