"""SPACE.yaml: what a sweep tries. It is checked against the trainer's own options before Ray starts.

search: grid | random | asha
space:                            # dotted option of the trainer -> what to try
  model.tcd.loss_weight: [0.1, 0.5, 2.0]             # a list: each of them
  train.lr: {loguniform: [1.0e-4, 1.0e-2]}           # random and asha only; also uniform, choice
fixed: {preset: study}            # options of every trial
seeds: 3                          # runs a point, with seeds 0, 1, 2 (or a list of seeds)
trials: 20                        # points drawn, for random and asha
metric: ndcg@10                   # of the validation split; mode: max
max_concurrent: 2
workers_per_trial: 1              # ranks of a trial
gpus_per_trial: 0
retries: 0                        # times that a trial that failed is continued
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trainer import options
from trainer.config import RunConfig
from trainer.errors import UserError

SEARCHES = ("grid", "random", "asha")
METRICS = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr")
# What the sweep itself decides for each trial.
RESERVED = {"data.path", "run.dir", "seed", "num_gpus", "resume", "dry_run"}
_LEAVES = {leaf.name: leaf for leaf in options.leaves(RunConfig) if leaf.name not in options.FROM_DATA}


@dataclass(frozen=True)
class Point:
    """One trial: options of the trainer by dotted name, and a seed."""

    overrides: dict[str, Any]
    seed: int

    @property
    def id(self) -> str:
        """The same for the same point, in any sweep: the name of its run directory."""
        text = json.dumps([self.overrides, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def words(self) -> list[str]:
        """Its command line."""
        words = []
        for name, value in {**self.overrides, "seed": self.seed}.items():
            text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
            words += [_LEAVES[name].option, text]
        return words


@dataclass
class Space:
    """A checked SPACE.yaml."""

    search: str = "grid"
    space: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    seeds: Any = 1
    trials: int = 20
    metric: str = "ndcg@10"
    mode: str = "max"
    max_concurrent: int = 0
    workers_per_trial: int = 1
    gpus_per_trial: int = 0
    retries: int = 0

    def points(self) -> list[Point]:
        """All trials in order, each once; drawn ones depend on the space alone. The seeds of a point follow
        each other.
        """
        seeds = list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)
        found = [
            Point({**self.fixed, **values}, seed)
            for values in (self._grid() if self.search == "grid" else self._drawn())
            for seed in seeds
        ]
        return list({point.id: point for point in found}.values())

    def _grid(self) -> list[dict[str, Any]]:
        return [
            dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())
        ]

    def _drawn(self) -> list[dict[str, Any]]:
        text = json.dumps([self.space, self.fixed], sort_keys=True)
        rng = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:16], 16))
        return [
            {name: _draw(_LEAVES[name].kind, how, rng) for name, how in self.space.items()}
            for _ in range(self.trials)
        ]


def _draw(kind: type, how: Any, rng: np.random.Generator) -> Any:
    if isinstance(how, list):
        return how[int(rng.integers(len(how)))]
    ((name, (low, high)),) = how.items()
    value = (
        rng.uniform(low, high) if name == "uniform" else math.exp(rng.uniform(math.log(low), math.log(high)))
    )
    return int(round(value)) if kind is int else float(f"{value:.6g}")


def load(path: str | Path) -> Space:
    """Raises UserError naming the file, the key, what was found and what was expected."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return check(tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check(tree: Any) -> Space:
    """A Space of a tree as YAML gives it. Raises UserError."""
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
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key} is {value!r}, expected a whole number of at least {least}")
    _check_seeds(space.seeds)
    for key in ("space", "fixed"):
        if not isinstance(getattr(space, key), dict):
            raise UserError(f"{key} is {getattr(space, key)!r}, expected a mapping of options to values")
    if not space.space:
        raise UserError("space is empty: name at least one option to try")
    space.fixed = check_fixed(space.fixed)
    space.space = {name: _tried(name, how, space.search) for name, how in space.space.items()}
    both = set(space.space) & set(space.fixed)
    if both:
        raise UserError(f"{min(both)} is both fixed and in the space")
    return space


def check_fixed(fixed: dict[str, Any]) -> dict[str, Any]:
    """Overrides of all trials, as the trainer would read them. Raises UserError."""
    return {name: _value(name, value) for name, value in fixed.items()}


def _check_seeds(seeds: Any) -> None:
    several = seeds if isinstance(seeds, list) else [seeds]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in several)
    if not several or not whole or seeds == 0:
        raise UserError(f"seeds is {seeds!r}, expected how many (at least 1) or a list of seeds")


def _value(name: str, value: Any) -> Any:
    """One value of an option, as the trainer would read it."""
    if name in RESERVED:
        raise UserError(f"{name} is decided by the sweep" + (": use `seeds`" if name == "seed" else ""))
    if name not in _LEAVES:
        raise UserError(f"unknown option {name!r}{options.nearest(name, list(_LEAVES))}")
    if isinstance(value, (dict, list)):
        raise UserError(f"{name} is {value!r}, expected one value: {_LEAVES[name].expected}")
    text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
    return _LEAVES[name].parse(text)


def _tried(name: str, how: Any, search: str) -> Any:
    """The values or the range that are tried for an option."""
    if isinstance(how, dict) and list(how) == ["choice"]:
        how = how["choice"]
    if isinstance(how, list):
        if not how:
            raise UserError(f"{name} has no values to try: the grid is empty")
        return [_value(name, value) for value in how]
    if isinstance(how, dict) and len(how) == 1 and next(iter(how)) in ("uniform", "loguniform"):
        ((kind, ends),) = how.items()
        if name not in _LEAVES or name in RESERVED:
            _value(name, None)  # says what is wrong with the name
        if search == "grid":
            raise UserError(f"{name} has a range: `search: grid` takes lists; use random or asha")
        if _LEAVES[name].kind not in (int, float):
            raise UserError(f"{name} takes {_LEAVES[name].expected}: it has no range")
        numeric = isinstance(ends, list) and len(ends) == 2
        numeric = numeric and all(isinstance(end, (int, float)) for end in ends)
        if not numeric or not ends[0] < ends[1] or (kind == "loguniform" and ends[0] <= 0):
            bounds = "0 < low < high" if kind == "loguniform" else "low < high"
            raise UserError(f"{name}: {kind} is {ends!r}, expected [low, high] with {bounds}")
        return {kind: ends}
    raise UserError(
        f"{name} is {how!r}, expected a list, {{choice: [...]}}, {{uniform: [a, b]}}, {{loguniform: [a, b]}}"
    )
