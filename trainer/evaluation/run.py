"""A run that was trained, opened in one process: its configuration, its best weights, a data set for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from shards import Index
from trainer import distributed, options, run_directory
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.inputs import Inputs


def open_run(run: str, data: str | None) -> tuple[RunConfig, weights.Weights]:
    """Return a run's configuration, with another data set where `data` names one, and its best weights.

    Raises:
        UserError: no run there, no checkpoint yet, or a command as the data set of its configuration.
    """
    best = weights.load(run)
    config = options.load_run(Path(run))
    config.run.dir = run
    if data:
        config.data.path = data
    else:
        options.refuse_command(config.data.path, Path(run) / run_directory.CONFIG)
    return config, best


def open_inputs(
    config: RunConfig, best: weights.Weights, world: distributed.World, noise: float | None = None
) -> Inputs:
    """Return the data set, checked to be one that the weights can rank: the same videos, in the same order.

    Args:
        noise: standard deviations added to the frame features; None: as the model was configured.

    Raises:
        UserError, DataError: it is not, or cannot be read.
    """
    model = best.model_config
    if noise is not None:
        model = replace(model, feature_noise=noise)
    inputs = Inputs(config.data, model, world, config.seed)
    if inputs.index.fingerprint != best.facts.fingerprint:
        run = str(config.run.dir)
        check_videos(inputs.index, run, weights.original_ids(run, best.facts))
    return inputs


def check_videos(index: Index, run: str, known: np.ndarray) -> None:
    """Check that a data set has the videos that a run's weights know, original ids [I], in the same order.

    Raises:
        UserError, DataError: it does not, or cannot be read.
    """
    if [*index.item_ids()] != known.tolist():
        raise UserError(f"{index.path} has other videos than the data of {run}: train on it with --init_from")


def single_world() -> distributed.World:
    """Return a world of one process, on the first GPU where there is one."""
    distributed.settle_attention()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return distributed.World(device=device)
