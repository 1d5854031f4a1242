"""Designs of the studies: the variants of each, how many seeds, and what is compared with what.

A variant is a set of the trainer's options. A design lists cells: variants at their positions in the figure.
What a cell shows is the evaluation of a run, of several runs together (late fusion), or of a run with noise
on its features or with fewer steps of its chains. Only the first needs a run of its own.

On a data set without frame features a design has only those cells that the frames do not matter to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer import options, presets
from trainer.config import RunConfig
from tune.space import Overrides, Point, Value

NO_TCD: Overrides = {"model.tcd.enabled": False}
NO_NPD: Overrides = {"model.npd.enabled": False}
NO_BOTH: Overrides = {**NO_TCD, **NO_NPD}
IDS: Overrides = {"model.use_video": False, **NO_NPD}
CONTENT: Overrides = {"model.use_ids": False}
FULL, WITHOUT_TCD, WITHOUT_NPD, WITHOUT_BOTH = "full", "w/o TCD", "w/o NPD", "w/o both"
IDS_ONLY, TWO_SEEDS = "IDs only", "late fusion: two seeds of IDs"
ABLATION: dict[str, Overrides] = {
    FULL: {},
    WITHOUT_TCD: NO_TCD,
    WITHOUT_NPD: NO_NPD,
    WITHOUT_BOTH: NO_BOTH,
    "w/o temporal guidance": {"model.tcd.temporal_guidance": False},
    "w/o collaborative condition": {"model.tcd.collaborative": False},
    "NPD told the step": {"model.npd.noise_conditional": True},
    "w/o content in the embeddings": {"model.content_half": 0.0},
    "w/o visual": {"model.use_video": False},
    IDS_ONLY: IDS,
    "content only": CONTENT,
    "TCD: pooling without diffusion": {"model.tcd.control": "pooling"},
    "TCD: network without noise and loss": {"model.tcd.control": "no_diffusion"},
    "NPD: network without noise and loss": {"model.npd.control": "no_diffusion"},
    "NPD through its gradient only": {"model.npd.mix": 0.0},
    "shuffled frame order": {"model.shuffle_frames": True},
}
ONE_STEP = "full, one step of each chain"
# Runs that are trained apart and rank together: by how much their seeds differ, and their variant.
LATE_FUSION: dict[str, list[tuple[int, Overrides]]] = {
    "late fusion: IDs + content": [(0, IDS), (0, CONTENT)],
    TWO_SEEDS: [(0, IDS), (1, IDS)],
}
QUICK = (FULL, WITHOUT_TCD, WITHOUT_NPD, WITHOUT_BOTH, IDS_ONLY, ONE_STEP, TWO_SEEDS)
"""The ablation's cells with `--quick`: the modules, and what the full model has to beat."""
PRIMARY = (WITHOUT_TCD, WITHOUT_NPD)
"""The ablation's comparisons with the full model, in test NDCG@10, that alone have a p-value.

They were chosen before any run; all others are exploratory.
"""

MODULES: dict[str, Overrides] = {FULL: {}, WITHOUT_TCD: NO_TCD, WITHOUT_NPD: NO_NPD, "backbone": NO_BOTH}
NOISE = "model.feature_noise"
OF_FRAMES = (
    "model.tcd.",
    "model.use_video",
    "model.use_ids",
    "model.content_half",
    "model.shuffle_frames",
    NOISE,
)
"""Options, or beginnings of their names, that need frame features."""
WEIGHTS = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0)
STEPS = (2, 5, 10, 20, 32, 50)
SIGMAS = (0.0, 0.1, 0.2, 0.5, 1.0)
BACKBONES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "nextitnet": "NextItNet"}


@dataclass(frozen=True)
class Part:
    """A run that a cell evaluates: its options, and how many seeds it is after the cell's."""

    overrides: tuple[tuple[str, Value], ...]
    shift: int = 0

    def point(self, fixed: Overrides, seed: int) -> Point:
        """Return the run.

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


@dataclass(frozen=True)
class Cell:
    """What is evaluated, and its position: (row, column) of a heat map, (line, sigma), (backbone, modules).

    parts: one run, or several that rank together; noise: on the features, in evaluation alone; sampler_steps:
    of the reverse chains in the evaluation, None: as the run's configuration says.
    """

    panel: str
    row: str
    column: str
    parts: tuple[Part, ...]
    noise: float = 0.0
    sampler_steps: int | None = None

    @property
    def is_trained(self) -> bool:
        """Whether it is a run as it is, whose own results and learning curve it has."""
        return len(self.parts) == 1 and not self.noise and self.sampler_steps is None

    @property
    def label(self) -> str:
        """Its name in a figure."""
        panel = self.panel.upper() if self.panel in ("tcd", "npd") else ""
        return " ".join(filter(None, [panel, f"{self.row}, {self.column}" if self.column else self.row]))

    def seeds(self, seeds: Sequence[int]) -> list[int]:
        """Return those of the study's seeds that this cell has.

        Two seeds together need two, and of two there is one pair.
        """
        if len(seeds) > 2 or not any(part.shift for part in self.parts):
            return list(seeds)
        return list(seeds[:1]) if len(seeds) == 2 else []

    def points(self, fixed: Overrides, seed: int, seeds: Sequence[int]) -> list[Point]:
        """Return its runs, in the order of its parts."""
        place = list(seeds).index(seed)
        return [part.point(fixed, seeds[(place + part.shift) % len(seeds)]) for part in self.parts]


def make_cell(panel: str, row: Any, column: Any, overrides: Overrides, **evaluation: Any) -> Cell:
    """Make a cell of one run, its position spelled as in tables; evaluation: `noise`, `sampler_steps`."""
    return Cell(panel, str(row), str(column), (Part(_sorted(overrides)),), **evaluation)


def _sorted(overrides: Overrides) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(overrides.items()))


def varied(cells: Sequence[Cell]) -> set[str]:
    """Return the options that a study's cells differ in."""
    names = {name for cell in cells for part in cell.parts for name, _ in part.overrides}
    return names | ({NOISE} if any(cell.noise for cell in cells) else set())


def ablation(quick: bool) -> list[Cell]:
    """Figure 3: what each part is worth, beside controls that have its networks without its diffusion."""
    cells = [
        *(make_cell("ablation", name, "", overrides) for name, overrides in ABLATION.items()),
        make_cell("ablation", ONE_STEP, "", {}, sampler_steps=1),
        *(
            Cell("ablation", name, "", tuple(Part(_sorted(overrides), shift) for shift, overrides in parts))
            for name, parts in LATE_FUSION.items()
        ),
    ]
    return [cell for cell in cells if cell.row in QUICK] if quick else cells


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
    """Figure 5: noise of `sigma` standard deviations on the frame features, in evaluation alone."""
    sigmas = SIGMAS[::2] if quick else SIGMAS
    return [
        make_cell("robustness", name, sigma, overrides, noise=sigma)
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
SEEDS = {"ablation": 5, "sensitivity": 1, "robustness": 5, "universality": 5}
MORE_SEEDS = (1, 2, 3, 4)  # for the cells of a heat map that get more seeds


def cells_of(study: str, quick: bool, has_frames: bool) -> list[Cell]:
    """Return the cells of a study on a data set, with frame features or without.

    Without, the options of frames are left out, and with them the cells that differ in nothing else.
    """
    cells = DESIGNS[study](quick)
    return cells if has_frames else _without_frames(cells)


def _without_frames(cells: list[Cell]) -> list[Cell]:
    kept: dict[Any, Cell] = {}
    for cell in cells:
        parts = tuple(
            replace(part, overrides=tuple(o for o in part.overrides if not o[0].startswith(OF_FRAMES)))
            for part in cell.parts
        )
        is_of_frames = cell.noise or any(
            had.overrides and not has.overrides for had, has in zip(cell.parts, parts, strict=True)
        )
        if not is_of_frames:
            kept.setdefault((parts, cell.sampler_steps), replace(cell, parts=parts))
    return list(kept.values())


def baseline_of(study: str, cell: Cell, cells: list[Cell]) -> Cell | None:
    """Return the cell that `cell` is compared with, seed by seed; None for a baseline itself.

    Also None where the small grid of `sensitivity` does not have the default.
    """
    if study == "ablation":
        return None if cell == cells[0] else cells[0]
    if study == "sensitivity":
        weight, steps = default_of(cell.panel)
        place = (cell.panel, str(weight), str(steps))
    elif study == "robustness":
        place = (cell.panel, "full", cell.column)
    else:
        place = (cell.panel, cell.row, "alone")
    baseline = next((other for other in cells if (other.panel, other.row, other.column) == place), None)
    return None if baseline == cell else baseline
