"""MealRec: a sequential micro-video recommender with hierarchical diffusion (arXiv 2603.01926), in plain
PyTorch.

    from mealrec import MealRec, MealRecConfig
    model = MealRec(MealRecConfig(videos=1000))

The configuration is importable without torch; the model is loaded at first use.
"""

from mealrec.config import BackboneConfig, MealRecConfig, NPDConfig, ObjectiveConfig, TCDConfig
from mealrec.errors import ConfigError

__all__ = [
    "BackboneConfig",
    "ConfigError",
    "MealRec",
    "MealRecConfig",
    "NPDConfig",
    "ObjectiveConfig",
    "TCDConfig",
]


def __getattr__(name: str):
    if name == "MealRec":
        from mealrec.model import MealRec

        return MealRec
    raise AttributeError(f"module 'mealrec' has no attribute {name!r}")
