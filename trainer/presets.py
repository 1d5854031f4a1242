"""Starting values for the data sets that MealRec is for: `--preset NAME`. Options win over them."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config import RunConfig
from trainer.errors import UserError


def default() -> RunConfig:
    """Return values for the synthetic world that `./launch.sh` makes for itself."""
    config = RunConfig(preset="default")
    config.data.max_length = 20
    config.train.batch_size, config.train.warmup_steps = 128, 100
    config.train.lr, config.train.table_lr, config.train.decay = 2e-3, 6e-3, "linear"
    config.train.max_epochs, config.train.patience, config.train.ema = 16, 0, 0.995
    config.model.item_bias, config.model.content_half, config.model.backbone.dropout = True, 20.0, 0.1
    return config


def study() -> RunConfig:
    """Return values for the synthetic world with a smaller model, for studies of many runs."""
    config = default()
    config.preset = "study"
    config.model.dim = 32
    config.train.max_epochs = 32  # IDs only need them, the full model does not
    config.eval.every_steps = 200  # four epochs of the world
    config.train.tensorboard = False
    return config


def microlens() -> RunConfig:
    """Return values for MicroLens 50K, 100K, 1M: short histories, the benchmark's length of 13."""
    config = RunConfig(preset="microlens")
    config.data.max_length, config.data.window_stride = 13, 13
    config.train.batch_size, config.train.warmup_steps = 256, 100
    config.train.lr, config.train.table_lr, config.train.decay = 2e-3, 4e-3, "linear"
    config.train.max_epochs, config.train.patience, config.train.ema = 16, 0, 0.999
    config.model.dim, config.model.backbone.dropout = 128, 0.5
    config.model.item_bias, config.model.content_half = True, 20.0
    return config


def kuairand() -> RunConfig:
    """Return values for KuaiRand: some hundred users with long histories of liked videos, no features."""
    config = RunConfig(preset="kuairand")
    config.data.max_length = 50
    config.train.batch_size, config.train.warmup_steps = 64, 100
    config.train.lr, config.train.table_lr, config.train.decay = 3e-3, 2e-3, "linear"
    config.train.max_epochs, config.train.patience, config.train.ema = 60, 0, 0.995
    config.model.item_bias, config.model.backbone.dropout = True, 0.3
    config.eval.every_steps = 190  # ten epochs
    return config


def ml100k() -> RunConfig:
    """Return values for MovieLens 100K: 943 users, 1,682 items, long histories; RecBole's L of 10."""
    config = RunConfig(preset="ml100k")
    config.data.max_length, config.data.window_stride = 10, 3
    config.train.batch_size, config.train.warmup_steps = 512, 100
    config.train.lr, config.train.table_lr, config.train.decay = 1e-3, 4e-3, "linear"
    config.train.max_epochs, config.train.patience, config.train.ema = 24, 0, 0.995
    config.model.item_bias, config.model.backbone.dropout = True, 0.3
    config.eval.every_steps = 240  # four epochs
    return config


PRESETS: dict[str, Callable[[], RunConfig]] = {
    make.__name__: make for make in (default, study, microlens, kuairand, ml100k)
}


def make(name: str) -> RunConfig:
    """Return the preset of that name.

    Raises:
        UserError: there is none; the message names the ones there are.
    """
    if name not in PRESETS:
        raise UserError(f"unknown --preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]()
