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


@dataclass(frozen=True)
class MatchedVideos:
    """How many videos of a new data set the old weights know, how many are new, and which parts are, too."""

    known: int
    new: int
    fresh: list[str]


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


def start_from(model: torch.nn.Module, run: str | Path, item_ids: Ids) -> MatchedVideos:
    """Put a run's best weights into a new model (a warm start), rows of videos by their original id.

    New videos keep their fresh rows; positions beyond the old length too, and parts of the model that the
    run did not have: so IDs can be trained first, and TCD and NPD be added.

    Raises:
        UserError: no run there, or a model of another shape.
    """
    old = load(run)
    state = dict(old.state)
    rows = match_items(original_ids(run, old.facts), item_ids)
    matched = rows >= 0
    for name, parameter in model.named_parameters():
        by_row = name in (ITEM_TABLE, ITEM_BIAS, POSITION_TABLE) and name in state
        if not by_row or state[name].shape[1:] != parameter.shape[1:]:
            continue  # a difference in width is found below
        fresh = parameter.detach().clone()
        if name in (ITEM_TABLE, ITEM_BIAS):
            fresh[1:][torch.from_numpy(matched)] = state[name][torch.from_numpy(rows[matched])]
        else:
            common = min(len(fresh), len(state[name]))
            fresh[:common] = state[name][:common]
        state[name] = fresh
    own = dict(model.named_parameters())
    parts = sorted({name.split(".")[0] for name in own if name not in state})
    try:
        load_into(model, {**{name: own[name].detach() for name in own if name not in state}, **state})
    except UserError as error:
        raise UserError(f"--init_from {run}: another model: {error}") from None
    return MatchedVideos(known=int(matched.sum()), new=int((~matched).sum()), fresh=parts)


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
