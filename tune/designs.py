"""Designs of the paper's studies: the variants of each, how many seeds, and which baseline.

A variant is a set of the trainer's options. A design lists cells: variants at their positions in the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer import options, presets
from trainer.config import RunConfig
from tune.space import Overrides, Point, Value

NO_TCD: Overrides = {"model.tcd.enabled": False}
NO_NPD: Overrides = {"model.npd.enabled": False}
NO_BOTH: Overrides = {**NO_TCD, **NO_NPD}
ABLATION: dict[str, Overrides] = {
    "full": {},
    "w/o TCD": NO_TCD,
    "w/o NPD": NO_NPD,
    "w/o both": NO_BOTH,
    "w/o temporal guidance": {"model.tcd.temporal_guidance": False},
    "w/o collaborative condition": {"model.tcd.collaborative": False},
    "NPD told the step": {"model.npd.noise_conditional": True},
    "w/o visual": {"model.use_video": False},
}
MODULES: dict[str, Overrides] = {"full": {}, "w/o TCD": NO_TCD, "w/o NPD": NO_NPD, "backbone": NO_BOTH}
WEIGHTS = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0)
STEPS = (2, 5, 10, 20, 32, 50)
SIGMAS = (0.0, 0.1, 0.2, 0.5, 1.0)
BACKBONES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "nextitnet": "NextItNet"}


@dataclass(frozen=True)
class Cell:
    """A variant and its position: (row, column) of a heat map, (line, sigma) or (backbone, modules)."""

    panel: str
    row: str
    column: str
    overrides: tuple[tuple[str, Value], ...]

    def point(self, fixed: Overrides, seed: int) -> Point:
        """Return its run.

        Values that the preset has anyway are left out, so that studies share the runs they have in common.
        """
        preset = presets.make(str(fixed["preset"]))
        overrides = {**fixed, **dict(self.overrides)}
        return Point(
            {
                name: value
                for name, value in overrides.items()
                if name == "preset" or options.get(preset, name) != value
            },
            seed,
        )


def make_cell(panel: str, row: Any, column: Any, overrides: Overrides) -> Cell:
    """Make a cell, its position spelled as in tables."""
    return Cell(panel, str(row), str(column), tuple(sorted(overrides.items())))


def ablation(quick: bool) -> list[Cell]:
    """Figure 3: what each part is worth."""
    names = list(ABLATION)[:4] if quick else list(ABLATION)
    return [make_cell("ablation", name, "", ABLATION[name]) for name in names]


def sensitivity(quick: bool) -> list[Cell]:
    """Figure 4: loss weight against diffusion steps, a heat map for each module.

    The whole grid includes the default's row and column.
    """
    cells = []
    for module in ("tcd", "npd"):
        default_weight, default_steps = default_of(module)
        weights = WEIGHTS[::3] if quick else sorted({*WEIGHTS, default_weight})
        steps = STEPS[::3] if quick else sorted({*STEPS, default_steps})
        cells += [
            make_cell(module, weight, T, {f"model.{module}.loss_weight": weight, f"model.{module}.steps": T})
            for weight in weights
            for T in steps
        ]
    return cells


def default_of(module: str) -> tuple[float, int]:
    """Return the default loss weight and diffusion steps of "tcd" or "npd"."""
    diffusion = getattr(RunConfig().model, module)
    return diffusion.loss_weight, diffusion.steps


def robustness(quick: bool) -> list[Cell]:
    """Figure 5: noise of `sigma` standard deviations on the frame features, in training and in evaluation."""
    sigmas = SIGMAS[::2] if quick else SIGMAS
    return [
        make_cell("robustness", name, sigma, {**overrides, "model.feature_noise": sigma})
        for name, overrides in MODULES.items()
        for sigma in sigmas
    ]


def universality(quick: bool) -> list[Cell]:
    """Each backbone with and without the two modules."""
    names = list(BACKBONES)[:2] if quick else list(BACKBONES)
    modules: dict[str, Overrides] = {"with TCD and NPD": {}, "alone": NO_BOTH}
    return [
        make_cell("universality", BACKBONES[name], label, {**overrides, "model.backbone.name": name})
        for name in names
        for label, overrides in modules.items()
    ]


DESIGNS: dict[str, Callable[[bool], list[Cell]]] = {
    design.__name__: design for design in (ablation, sensitivity, robustness, universality)
}
SEEDS = {"ablation": 3, "sensitivity": 1, "robustness": 3, "universality": 3}


def baseline_of(study: str, cell: Cell, cells: list[Cell]) -> Cell | None:
    """Return the cell that `cell` is compared with, seed by seed; None for a baseline itself."""
    if study == "ablation":
        baseline = cells[0]
    elif study == "robustness":
        baseline = next(c for c in cells if (c.row, c.column) == ("full", cell.column))
    elif study == "universality":
        baseline = next(c for c in cells if (c.row, c.column) == (cell.row, "alone"))
    else:
        return None
    return None if baseline == cell else baseline
