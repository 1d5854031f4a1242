"""The paper's studies as points to run: what varies, and over which seeds.

A variant is a set of the trainer's options; the first of a study is what the others are held against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer import options as trainer_options
from trainer import presets
from trainer.config import RunConfig
from tune.space import Point

Options = dict[str, Any]

NO_TCD, NO_NPD = {"model.tcd.enabled": False}, {"model.npd.enabled": False}
NO_BOTH = {**NO_TCD, **NO_NPD}
ABLATION: dict[str, Options] = {
    "full": {},
    "w/o TCD": NO_TCD,
    "w/o NPD": NO_NPD,
    "w/o both": NO_BOTH,
    "w/o temporal guidance": {"model.tcd.temporal_guidance": False},
    "w/o collaborative condition": {"model.tcd.collaborative": False},
    "NPD told the step": {"model.npd.noise_conditional": True},
    "w/o visual": {"model.use_video": False},
}
MODULES = {"full": {}, "w/o TCD": NO_TCD, "w/o NPD": NO_NPD, "backbone": NO_BOTH}
WEIGHTS = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0)
STEPS = (2, 5, 10, 20, 32, 50)
SIGMAS = (0.0, 0.1, 0.2, 0.5, 1.0)
BACKBONES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "nextitnet": "NextItNet"}


@dataclass(frozen=True)
class Cell:
    """A variant at a place of the figure: (row, column) of a heat map, (line, sigma), (backbone, modules)."""

    panel: str
    row: str
    column: str
    options: tuple[tuple[str, Any], ...]

    def point(self, fixed: Options, seed: int) -> Point:
        """Its run. What is as the preset has it is left out, so that studies share their common runs."""
        preset = presets.make(fixed["preset"])
        wanted = {**fixed, **dict(self.options)}
        return Point(
            {
                name: value
                for name, value in wanted.items()
                if name == "preset" or trainer_options.get(preset, name) != value
            },
            seed,
        )


def cell(panel: str, row: Any, column: Any, options: Options) -> Cell:
    return Cell(panel, str(row), str(column), tuple(sorted(options.items())))


def ablation(quick: bool) -> list[Cell]:
    """Figure 3: what each part is worth."""
    chosen = list(ABLATION.items())[:4] if quick else ABLATION.items()
    return [cell("ablation", name, "", options) for name, options in chosen]


def sensitivity(quick: bool) -> list[Cell]:
    """Figure 4: loss weight against diffusion steps, a heat map for each module.

    The whole grid has the default's row and column, too.
    """
    cells = []
    for module in ("tcd", "npd"):
        weight, T = default_of(module)
        weights = WEIGHTS[::3] if quick else sorted({*WEIGHTS, weight})
        steps = STEPS[::3] if quick else sorted({*STEPS, T})
        cells += [
            cell(module, weight, T, {f"model.{module}.loss_weight": weight, f"model.{module}.steps": T})
            for weight in weights
            for T in steps
        ]
    return cells


def default_of(module: str) -> tuple[float, int]:
    """Loss weight and steps that a run has by itself for "tcd" or "npd"."""
    diffusion = getattr(RunConfig().model, module)
    return diffusion.loss_weight, diffusion.steps


def robustness(quick: bool) -> list[Cell]:
    """Figure 5: noise of `sigma` standard deviations on the frame features, in training and in evaluation."""
    sigmas = SIGMAS[::2] if quick else SIGMAS
    return [
        cell("robustness", name, sigma, {**options, "model.feature_noise": sigma})
        for name, options in MODULES.items()
        for sigma in sigmas
    ]


def universality(quick: bool) -> list[Cell]:
    """Each backbone with and without the two modules."""
    names = list(BACKBONES)[:2] if quick else BACKBONES
    return [
        cell("universality", BACKBONES[name], label, {**options, "model.backbone.name": name})
        for name in names
        for label, options in (("with TCD and NPD", {}), ("alone", NO_BOTH))
    ]


STUDIES: dict[str, Callable[[bool], list[Cell]]] = {
    study.__name__: study for study in (ablation, sensitivity, robustness, universality)
}
SEEDS = {"ablation": 3, "sensitivity": 1, "robustness": 3, "universality": 3}


def held_against(study: str, one: Cell, cells: list[Cell]) -> Cell | None:
    """The cell that a cell is compared with, seed by seed; None for the one that the others are held
    against.
    """
    if study == "ablation":
        other = cells[0]
    elif study == "robustness":
        other = next(c for c in cells if (c.row, c.column) == ("full", one.column))
    elif study == "universality":
        other = next(c for c in cells if (c.row, c.column) == (one.row, "alone"))
    else:
        return None
    return None if other == one else other
