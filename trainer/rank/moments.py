"""Adam's moments of another run: read from a checkpoint of any ZeRO stage, put into an engine of any other.

Nothing is converted on disk: DeepSpeed's files are mapped, and a parameter's moments are made whole, and cut
again for this rank, one parameter after the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as torch_dist

from trainer import ds_config
from trainer.checkpoint_files import CheckpointFacts, Damaged
from trainer.rank.engine import group_of
from trainer.tensors_only import tensors_only

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

KEYS = FIRST, SECOND = "exp_avg", "exp_avg_sq"
_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt$")
_OTHER_FORM = (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError)

Pieces = dict[str, dict[str, list[torch.Tensor]]]


@dataclass(frozen=True)
class Moments:
    """The state of a run's Adam.

    step    steps that it has made
    pieces  by the name of a parameter, then of a moment: what each rank held, flat, one after the other
    """

    step: int
    pieces: Pieces

    def whole(self, name: str, key: str, shape: torch.Size) -> torch.Tensor:
        """One moment of one parameter, float32."""
        return torch.cat(self.pieces[name][key]).view(shape).float()


def read(checkpoint: Path, facts: CheckpointFacts, shapes: Mapping[str, torch.Size]) -> Moments | None:
    """Return the moments of a checkpoint whose parameters have these `shapes`, by name.

    None where it holds no files of an optimiser, or the state of another one than Adam.

    Raises:
        Damaged: a file is not what the run has written.
        UserError: it holds more than tensors.
    """
    stage = facts.zero_stage
    if stage == 0:
        found = [checkpoint / "mp_rank_00_model_states.pt"]
    else:
        ranks = {int(rank[1]): path for path in checkpoint.iterdir() if (rank := _RANK.search(path.name))}
        found = [ranks[rank] for rank in sorted(ranks)]
        if ranks and sorted(ranks) != list(range(facts.world_size)):
            raise Damaged(
                f"{checkpoint}: found the optimiser's files of {len(ranks)} ranks of {facts.world_size}"
            )
    found = [path for path in found if path.is_file()]
    if not found:
        return None
    found += [checkpoint / "zero_pp_rank_0_mp_rank_00_model_states.pt"] if stage == 3 else []
    facts.check(checkpoint, [path.name for path in found])
    try:
        with tensors_only(checkpoint):
            saved = [torch.load(path, map_location="cpu", mmap=True) for path in found]
        if stage == 0:
            step, pieces = _plain(saved[0], shapes)
        elif stage < 3:
            step, pieces = _fragments(saved)
        else:
            step, pieces = _partitions(saved[:-1], saved[-1]["param_shapes"])
        sizes = {name: [sum(map(torch.numel, pieces[name][key])) for key in KEYS] for name in shapes}
    except _OTHER_FORM:
        return None
    fits = all(sizes[name] == [shape.numel()] * len(KEYS) for name, shape in shapes.items())
    return Moments(step, pieces) if fits else None


def put(engine: DeepSpeedEngine, step: int, moments: Callable[[str, str, torch.Size], torch.Tensor]) -> bool:
    """Give the engine's Adam its moments. False, and nothing is done, where it has another optimiser.

    Args:
        moments: float32 of a shape, by the names of a parameter and of one of `KEYS`.
    """
    stage = ds_config.zero_stage(engine.config)
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    on_host = type(base).__name__ == "DeepSpeedCPUAdam"
    if not (on_host or isinstance(base, torch.optim.Adam)):
        return False
    for slot in _slots(engine, base, stage):
        state = base.state[slot.held]
        state["step"] = step if on_host else torch.tensor(float(step), device=slot.held.device)
        for key in KEYS:
            if key not in state:
                state[key] = torch.zeros_like(slot.held)
            whole = moments(slot.name, key, slot.shape).flatten()
            part = state[key].flatten()[slot.at : slot.at + slot.count]
            part.copy_(whole[slot.first : slot.first + slot.count])
    return True


@dataclass(frozen=True)
class _Slot:
    """Numbers `first:first + count` of a parameter, which this rank has from `at` on in `held`."""

    name: str
    shape: torch.Size
    held: torch.Tensor
    at: int
    first: int
    count: int


def _slots(engine: DeepSpeedEngine, base: torch.optim.Optimizer, stage: int) -> Iterator[_Slot]:
    zero = engine.optimizer
    # Of bf16 without ZeRO: the optimiser has a twin in float32 of each parameter.
    twins: dict[torch.Tensor, torch.Tensor] = {}
    if stage == 0 and zero is not base:
        for narrow, wide in zip(zero.fp16_groups, zero.fp32_groups, strict=True):
            twins |= zip(narrow, wide, strict=True)
    for name, parameter in engine.module.named_parameters():
        if stage == 0:
            count = parameter.numel()
            yield _Slot(name, parameter.shape, twins.get(parameter, parameter), 0, 0, count)
        elif stage == 3:
            group, at, size = zero.grad_position[zero.get_param_id(parameter)]
            first = size * torch_dist.get_rank()
            count = max(0, min(size, parameter.ds_numel - first))  # the last partition has padding
            held = zero.fp32_partitioned_groups_flat[group]
            yield _Slot(name, parameter.ds_shape, held, at, first, count)
        elif (place := parameter._hp_mapping) is not None:  # some of it is in this rank's partition
            at, own = place.hp_fragment_address, place.lp_fragment_address
            (held,) = base.param_groups[place.param_group_index]["params"]
            yield _Slot(name, parameter.shape, held, at.start, own.start, own.numel)


def _plain(saved: dict[str, Any], shapes: Mapping[str, torch.Size]) -> tuple[int, Pieces]:
    """Of stage 0: whole moments, numbered as the groups of parameters are."""
    optimizer = saved["optimizer"]
    optimizer = optimizer.get("optimizer_state_dict", optimizer)
    by_group: dict[int, list[str]] = defaultdict(list)
    for name in saved["module"]:  # in the model's order, with its buffers
        if name in shapes:
            by_group[group_of(name, len(shapes[name]))].append(name)
    pieces: Pieces = {}
    for number, group in enumerate(optimizer["param_groups"]):
        for name, at in zip(by_group[number], group["params"], strict=True):
            state = optimizer["state"][at]
            if state[FIRST].shape != shapes[name]:
                raise ValueError(name)
            pieces[name] = {key: [state[key].flatten()] for key in KEYS}
    return int(state["step"]), pieces


def _fragments(saved: list[dict[str, Any]]) -> tuple[int, Pieces]:
    """Of stages 1 and 2: each rank has a stretch of all parameters of a group, and says where each is."""
    pieces: Pieces = {}
    for rank in saved:
        optimizer = rank["optimizer_state_dict"]
        states = optimizer["base_optimizer_state"]["state"]
        for group, places in enumerate(optimizer["param_slice_mappings"]):
            for name, place in places.items():
                for key in KEYS:
                    piece = states[group][key].narrow(0, place.start, place.numel)
                    pieces.setdefault(name, {}).setdefault(key, []).append(piece)
    return int(states[0]["step"]), pieces


def _partitions(saved: list[dict[str, Any]], groups: list[dict[str, torch.Size]]) -> tuple[int, Pieces]:
    """Of stage 3: each rank has a part of every parameter, all of one size, the last ones padded."""
    pieces: Pieces = {}
    for rank, file in enumerate(saved):
        states = file["optimizer_state_dict"]["optimizer_state_dict"]["state"]
        for group, shapes in enumerate(groups):
            at = 0
            for name, shape in shapes.items():
                size = -(-shape.numel() // len(saved))
                real = max(0, min(size, shape.numel() - rank * size))
                for key in KEYS:
                    piece = states[group][key].narrow(0, at, real)
                    pieces.setdefault(name, {}).setdefault(key, []).append(piece)
                at += size
    return int(states[0]["step"]), pieces
