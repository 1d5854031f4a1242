"""Starting values for the data sets that MealRec is for: `--preset NAME`. Options win over them."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config import RunConfig
from trainer.errors import UserError


def default() -> RunConfig:
    """The synthetic world that `./launch.sh` makes for itself."""
    config = RunConfig(preset="default")
    config.data.max_length = 20
    return config


def study() -> RunConfig:
    """The synthetic world in at most a minute on one core, for studies of many runs."""
    config = default()
    config.preset = "study"
    config.train.max_epochs = 5
    config.train.patience = 0
    config.model.dim = 32
    config.train.tensorboard = False
    return config


def microlens() -> RunConfig:
    """MicroLens 50K, 100K, 1M: short histories, the benchmark's length of 13."""
    config = RunConfig(preset="microlens")
    config.data.max_length = 13
    config.train.max_epochs = 40
    return config


def kuairand() -> RunConfig:
    """KuaiRand: long histories of liked videos, no features."""
    config = RunConfig(preset="kuairand")
    config.data.max_length = 50
    config.train.max_epochs = 30
    return config


def ml100k() -> RunConfig:
    """MovieLens 100K: 943 users, 1,682 items, long histories; L = 10 as RecBole's example."""
    config = RunConfig(preset="ml100k")
    config.data.max_length = 10
    config.train.batch_size = 256
    config.train.max_epochs = 100
    config.train.patience = 10
    return config


PRESETS: dict[str, Callable[[], RunConfig]] = {
    make.__name__: make for make in (default, study, microlens, kuairand, ml100k)
}


def make(name: str) -> RunConfig:
    """The preset of that name. Raises UserError naming the ones there are."""
    if name not in PRESETS:
        raise UserError(f"unknown --preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]()
