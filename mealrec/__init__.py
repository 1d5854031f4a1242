"""MealRec: a sequential micro-video recommender with hierarchical diffusion (arXiv 2603.01926), in PyTorch.

    from mealrec import MealRec, MealRecConfig
    model = MealRec(MealRecConfig(videos=1000))

The configuration is importable without torch; the rest is loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mealrec.config import BackboneConfig, MealRecConfig, NPDConfig, ObjectiveConfig, TCDConfig
from mealrec.errors import ConfigError

if TYPE_CHECKING:
    from mealrec.batch import Batch
    from mealrec.model import MealRec

__all__ = [
    "BackboneConfig",
    "Batch",
    "ConfigError",
    "MealRec",
    "MealRecConfig",
    "NPDConfig",
    "ObjectiveConfig",
    "TCDConfig",
]


def __getattr__(name: str) -> object:
    if name == "Batch":
        from mealrec.batch import Batch

        return Batch
    if name == "MealRec":
        from mealrec.model import MealRec

        return MealRec
    raise AttributeError(f"module 'mealrec' has no attribute {name!r}")
