"""A trained run, opened once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mealrec import MealRec
from shards import read_sequence_shard
from trainer.config import RunConfig
from trainer.evaluation.run import open_inputs, open_run, single_world
from trainer.inputs import Inputs

Opened = tuple[Inputs, MealRec, RunConfig]


@pytest.fixture(scope="package")
def opened(one_rank: dict[str, Path], cache: Path) -> Opened:
    """The inputs, the model and the configuration of the plain run's best weights."""
    config, best = open_run(str(one_rank["whole"]), None)
    config.data.cache_dir = str(cache)
    inputs = open_inputs(config, best, single_world())
    return inputs, best.model(inputs).eval(), config


@pytest.fixture(scope="package")
def sequences(opened: Opened) -> list[list[int]]:
    """Every user's whole sequence."""
    index, items = opened[0].index, []
    for entry in index.sequence_shards:
        block = read_sequence_shard(index, entry)
        items += [block.item[a:b].tolist() for a, b in zip(block.starts[:-1], block.starts[1:], strict=True)]
    return items
