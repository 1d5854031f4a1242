"""A run's weights as a plain state dict in fp32, from a checkpoint of any ZeRO stage, and what they were
made with.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mealrec import MealRecConfig
from trainer import checkpoint, options, rundir
from trainer.errors import UserError

ITEM_TABLE = "item"  # the parameter with one row a video; row 0 is the padding
POSITION_TABLE = "position"  # the parameter with one row a position
ITEMS = "items.npy"  # the run's own copy of the original item ids: its data set may be gone one day


@dataclass(frozen=True)
class Weights:
    """`state`: fp32 tensors by parameter name, on the CPU. `facts`: the checkpoint's checkpoint.json."""

    state: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @property
    def model_config(self) -> MealRecConfig:
        """The configuration of the model that these weights belong to."""
        return model_config_from(self.facts["model"])


def load(run: str | Path, which: Literal["best", "last"] = "best") -> Weights:
    """The best (by validation NDCG@10; the last where there is no best) or the last weights of a run.

    Raises:
        UserError: no run there, or no checkpoint yet.
    """
    found = find(Path(run), which)
    facts = rundir.read_json(found / checkpoint.FACTS)
    # A module that was trained without ZeRO lies whole in one file; ZeRO's parts are put together by
    # DeepSpeed's tool.
    state = _read_zero(found) if facts["zero_stage"] else _read_whole(found)
    return Weights({name: tensor.float() for name, tensor in state.items()}, facts)


def find(run: Path, which: Literal["best", "last"]) -> Path:
    """The folder of the best or the last checkpoint of a run. Raises UserError as `load` does."""
    folder = run / rundir.CHECKPOINTS
    if not (run / rundir.CONFIG).is_file():
        raise UserError(f"{run} holds no run: no {rundir.CONFIG} there")
    last = checkpoint.newest(folder)
    if last is None:
        raise UserError(f"{run} has no checkpoint yet")
    note = folder / checkpoint.BEST
    best = folder / note.read_text().strip() if which == "best" and note.is_file() else last
    return best if (best / checkpoint.FACTS).is_file() else last


def load_into(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Set all parameters of a plain model. Buffers stay as the model made them.

    Raises:
        UserError: a parameter is missing, unknown, or of another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in state or state[name].shape != parameter.shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise UserError(f"weight {name}: found {found}, expected {tuple(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(state[name])


def start_from(model: torch.nn.Module, run: str | Path, item_ids: Any) -> dict[str, int]:
    """Warm start: a run's best weights into a new model, embedding rows of videos by their original id.

    New videos keep their fresh rows; positions beyond the old length too. Returns how many videos were
    "matched" and "new".

    Raises:
        UserError: no run there, or a model of another shape.
    """
    old = load(run)
    state = dict(old.state)
    rows = match_items(original_ids(run), item_ids)
    matched = rows >= 0
    for name, parameter in model.named_parameters():
        if name not in (ITEM_TABLE, POSITION_TABLE) or state[name].shape[1:] != parameter.shape[1:]:
            continue
        fresh = parameter.detach().clone()
        if name == ITEM_TABLE:
            fresh[1:][torch.from_numpy(matched)] = state[name][torch.from_numpy(rows[matched])]
        else:
            common = min(len(fresh), len(state[name]))
            fresh[:common] = state[name][:common]
        state[name] = fresh
    try:
        load_into(model, state)
    except UserError as error:
        raise UserError(f"--init_from {run}: another model: {error}") from None
    return {"matched": int(matched.sum()), "new": int((~matched).sum())}


def match_items(old_ids: Any, new_ids: Any) -> np.ndarray:
    """int64 [I]: for each new video its row in the old table, from 1, or -1."""
    row = {original: number for number, original in enumerate(_plain(old_ids), start=1)}
    return np.array([row.get(original, -1) for original in _plain(new_ids)], dtype=np.int64)


def keep_ids(run: Path, item_ids: Any) -> None:
    """Write the run's own copy of the original item ids."""
    values = np.asarray(item_ids)
    np.save(run / ITEMS, values)


def original_ids(run: str | Path) -> np.ndarray:
    """The original item ids of a run, row j = video j+1. Raises UserError where they are missing."""
    try:
        return np.load(Path(run) / ITEMS, allow_pickle=False)
    except (OSError, ValueError):
        raise UserError(f"{run}: {ITEMS} cannot be read: the original ids of the run's videos") from None


def model_config_from(saved: dict[str, Any]) -> MealRecConfig:
    """A MealRecConfig from its `asdict`; an option that is younger than what was saved has its default."""
    config = MealRecConfig()
    for leaf in options.leaves(MealRecConfig):
        *groups, last = leaf.name.split(".")
        group = saved
        for name in groups:
            group = group.get(name, {})
        if last in group:
            options.put(config, leaf.name, group[last])
    return config


def _read_whole(found: Path) -> dict[str, torch.Tensor]:
    return torch.load(found / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)["module"]


def _read_zero(found: Path) -> dict[str, torch.Tensor]:
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # else importing DeepSpeed warns that it found no device
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return get_fp32_state_dict_from_zero_checkpoint(str(found.parent), tag=found.name)


def _plain(ids: Any) -> list[Any]:
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
