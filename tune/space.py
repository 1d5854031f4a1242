"""SPACE.yaml: what a sweep tries. It is checked against the trainer's own options before Ray starts.

search: grid | random | asha
space:                            # dotted option of the trainer -> what to try
  model.tcd.loss_weight: [0.1, 0.5, 2.0]             # a list: each of them
  train.lr: {loguniform: [1.0e-4, 1.0e-2]}           # random and asha only; also uniform, choice
fixed: {preset: study}            # options of every trial
seeds: 3                          # runs per point, with seeds 0, 1, 2 (or a list of seeds)
trials: 20                        # points drawn, for random and asha
metric: ndcg@10                   # of the validation split; mode: max
max_concurrent: 2
workers_per_trial: 1              # ranks of a trial
gpus_per_trial: 0
retries: 0                        # times that a failed trial is continued
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trainer import options
from trainer.config import RunConfig
from trainer.errors import UserError

Value = bool | int | float | str | None
Overrides = dict[str, Value]  # options of the trainer by dotted name
Choices = list[Value] | dict[str, list[float]]  # values to try, or {"uniform" or "loguniform": [low, high]}

SEARCHES = ("grid", "random", "asha")
METRICS = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr")
# What the sweep itself decides for each trial.
RESERVED = {"data.path", "run.dir", "seed", "num_gpus", "resume", "dry_run", "max_restarts"}
# Of a range's ends, by the kind of the option: what is drawn, and the range's width, must be numbers too.
_LARGEST = {int: 2**53, float: sys.float_info.max / 2}
_LEAVES = {leaf.name: leaf for leaf in options.leaves(RunConfig) if leaf.name not in options.FROM_DATA}


@dataclass(frozen=True)
class Point:
    """One trial: options of the trainer by dotted name, and a seed."""

    overrides: Overrides
    seed: int

    @property
    def id(self) -> str:
        """Name of its run directory: the same for the same point, in any sweep."""
        text = json.dumps([self.overrides, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def arguments(self) -> list[str]:
        """Return its command line."""
        arguments = []
        for name, value in {**self.overrides, "seed": self.seed}.items():
            arguments += [_LEAVES[name].option, _spell(value)]
        return arguments


@dataclass
class Space:
    """Content of SPACE.yaml, made by `parse_space`."""

    search: str = "grid"
    space: dict[str, Choices] = field(default_factory=dict)
    fixed: Overrides = field(default_factory=dict)
    seeds: int | list[int] = 1
    trials: int = 20
    metric: str = "ndcg@10"
    mode: str = "max"
    max_concurrent: int = 0
    workers_per_trial: int = 1
    gpus_per_trial: int = 0
    retries: int = 0

    def points(self) -> list[Point]:
        """List all trials, each once, the seeds of a point in a row.

        Drawn points depend on `space` and `fixed` alone.
        """
        seeds = range(self.seeds) if isinstance(self.seeds, int) else self.seeds
        points = [
            Point({**self.fixed, **values}, seed)
            for values in (self._grid() if self.search == "grid" else self._drawn())
            for seed in seeds
        ]
        return list({point.id: point for point in points}.values())

    def _grid(self) -> list[Overrides]:
        return [
            dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())
        ]

    def _drawn(self) -> list[Overrides]:
        text = json.dumps([self.space, self.fixed], sort_keys=True)
        rng = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:16], 16))
        return [
            {name: _draw(_LEAVES[name].kind, choices, rng) for name, choices in self.space.items()}
            for _ in range(self.trials)
        ]


def load_space(path: str | Path) -> Space:
    """Read a SPACE.yaml.

    Raises:
        UserError: names the file, the key, what was found and what was expected.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return parse_space(tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_space(tree: Any) -> Space:
    """Make a Space of a tree as YAML gives it.

    Raises:
        UserError: names the key, what was found and what was expected.
    """
    if not isinstance(tree, dict):
        raise UserError(f"expected a mapping with `search` and `space`, found {type(tree).__name__}")
    known = [f.name for f in fields(Space)]
    for key in tree:
        if key not in known:
            raise UserError(f"unknown key {key!r}{options.nearest(str(key), known)}")
    space = Space(**tree)
    for key, allowed in (("search", SEARCHES), ("metric", METRICS), ("mode", ("max", "min"))):
        if getattr(space, key) not in allowed:
            raise UserError(f"{key} is {getattr(space, key)!r}, expected one of {', '.join(allowed)}")
    numbers = {"trials": 1, "workers_per_trial": 1, "max_concurrent": 0, "gpus_per_trial": 0, "retries": 0}
    for key, least in numbers.items():
        value = getattr(space, key)
        if not _is_whole(value) or value < least:
            raise UserError(f"{key} is {value!r}, expected a whole number of at least {least}")
    _check_seeds(space.seeds)
    for key in ("space", "fixed"):
        if not isinstance(getattr(space, key), dict):
            raise UserError(f"{key} is {getattr(space, key)!r}, expected a mapping of options to values")
    if not space.space:
        raise UserError("space is empty: name at least one option to try")
    space.fixed = parse_fixed(space.fixed)
    space.space = {name: _parse_choices(name, choices, space.search) for name, choices in space.space.items()}
    both = set(space.space) & set(space.fixed)
    if both:
        raise UserError(f"{min(both)} is both fixed and in the space")
    return space


def parse_fixed(fixed: dict[str, Any]) -> Overrides:
    """Parse the options of all trials as the trainer would.

    Raises:
        UserError: an unknown option, or a value that the trainer would not take.
    """
    return {name: _parse_value(name, value) for name, value in fixed.items()}


def _check_seeds(seeds: Any) -> None:
    several = seeds if isinstance(seeds, list) else [seeds]
    if not several or seeds == 0 or not all(_is_whole(seed) and seed >= 0 for seed in several):
        raise UserError(f"seeds is {seeds!r}, expected a number of seeds (at least 1) or a list of seeds")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return (_is_whole(value) or isinstance(value, float)) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _spell(value: Any) -> str:
    """Spell a value as on a command line."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _parse_value(name: str, value: Any) -> Value:
    """Parse one value of an option as the trainer would."""
    if name in RESERVED:
        raise UserError(f"{name} is decided by the sweep" + (": use `seeds`" if name == "seed" else ""))
    if name not in _LEAVES:
        raise UserError(f"unknown option {name!r}{options.nearest(name, list(_LEAVES))}")
    if isinstance(value, (dict, list)):
        raise UserError(f"{name} is {value!r}, expected one value: {_LEAVES[name].expected}")
    parsed: Value = _LEAVES[name].parse(_spell(value))
    return parsed


def _parse_choices(name: str, choices: Any, search: str) -> Choices:
    """Parse the values or the range to try for an option."""
    if isinstance(choices, dict) and list(choices) == ["choice"]:
        choices = choices["choice"]
    if isinstance(choices, list):
        if not choices:
            raise UserError(f"{name} has no values to try: the grid is empty")
        return [_parse_value(name, value) for value in choices]
    if isinstance(choices, dict) and len(choices) == 1 and next(iter(choices)) in ("uniform", "loguniform"):
        ((kind, ends),) = choices.items()
        if name not in _LEAVES or name in RESERVED:
            _parse_value(name, None)  # says what is wrong with the name
        if search == "grid":
            raise UserError(f"{name} has a range: `search: grid` takes lists; use random or asha")
        if _LEAVES[name].kind not in (int, float):
            raise UserError(f"{name} takes {_LEAVES[name].expected}: it has no range")
        numeric = isinstance(ends, list) and len(ends) == 2
        numeric = numeric and all(_is_number(end) for end in ends)
        if not numeric or not ends[0] < ends[1] or (kind == "loguniform" and ends[0] <= 0):
            bounds = "0 < low < high" if kind == "loguniform" else "low < high"
            raise UserError(f"{name}: {kind} is {ends!r}, expected [low, high] with {bounds}")
        if max(map(abs, ends)) > _LARGEST[_LEAVES[name].kind]:
            largest = f"{_LARGEST[_LEAVES[name].kind]:.3g}"
            raise UserError(f"{name}: {kind} is {ends!r}, expected numbers up to {largest}")
        return {kind: ends}
    raise UserError(
        f"{name} is {choices!r}, expected a list,"
        " {choice: [...]}, {uniform: [a, b]}, {loguniform: [a, b]}"
    )


def _draw(kind: type, choices: Choices, rng: np.random.Generator) -> Value:
    """Draw a value of an option."""
    if isinstance(choices, list):
        return choices[int(rng.integers(len(choices)))]
    ((name, (low, high)),) = choices.items()
    if name == "uniform":
        value = rng.uniform(low, high)
    else:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return int(round(value)) if kind is int else float(f"{value:.6g}")
