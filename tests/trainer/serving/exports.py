"""Exports of small models that were not trained, for tests that need no run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mealrec import MealRec, MealRecConfig
from shards import FeatureTable
from trainer.serving import saved

VIDEOS, FRAMES, WIDTH, LENGTH = 40, 3, 5, 6
TEXT_IDS = np.array([f"video {number}" for number in range(VIDEOS)])


def make_config(*, video: bool = True) -> MealRecConfig:
    shape = {"frames": FRAMES, "width": WIDTH} if video else {}
    return MealRecConfig(videos=VIDEOS, max_length=LENGTH, dim=16, **shape)


def make_model(config: MealRecConfig) -> MealRec:
    """A model whose scores differ between videos and histories."""
    model = MealRec(config, seed=3)
    model.item.data.mul_(20)
    return model.eval()


def make_table(folder: Path) -> FeatureTable:
    """Frames of all videos but the third, which has none."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(VIDEOS + 1, FRAMES, WIDTH)).astype(np.float16)
    frames = np.full(VIDEOS + 1, FRAMES)
    features[[0, 3]], frames[[0, 3]] = 0, 0
    folder.mkdir()
    np.save(folder / "features.npy", features)
    np.save(folder / "frames.npy", frames)
    return FeatureTable(folder)


def write_export(folder: Path, *, video: bool = True, ids: np.ndarray = TEXT_IDS) -> Path:
    """Write an export of such a model; returns its folder."""
    config = make_config(video=video)
    model = make_model(config)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    about = saved.About(
        format="mealrec-export",
        version=saved.VERSION,
        model=asdict(config),
        seed=7,
        sampler_steps=2,
        batch_size=4,
        data={"name": "none", "fingerprint": "sha256:0"},
        step=0,
        metrics={},
    )
    table = make_table(folder.with_name(f"{folder.name}-frames")) if video else None
    folder.mkdir()
    saved.write(folder, about, state, ids, model.video_vectors().numpy(), table)
    saved.write_checksums(folder)
    return folder
