"""An export as files: what a trained model needs elsewhere, without pickles, each with its checksum.

config.json            version of the format, configuration of the model, what it was trained on
model.safetensors      all parameters in fp32
items.npy              original id of each video, row j = video j+1
item_embeddings.npy    float32 [I, D], row j = video j+1; its product with a user's vector is the score
features.npy           frames of all videos [I+1, M, V] as in the data set, where the model reads them;
                       row 0 is padding
frames.npy             int64 [I+1], real frames of each video, likewise
README.md              the model card
SHA256SUMS             of all the others, for `sha256sum --check` and for whoever opens the export
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mealrec import ConfigError, MealRecConfig
from shards import FeatureTable, file_sha256
from shards.format.json_faults import first_fault
from shards.format.npy import header_fault, open_array
from shards.stream.feature_cache import FEATURES_FILE, FRAMES_FILE
from trainer import files
from trainer.checkpoint_files import Damaged, check_file
from trainer.errors import UserError
from trainer.evaluation.weights import model_config_from

VERSION = 1
CONFIG, WEIGHTS, ITEMS, CARD = "config.json", "model.safetensors", "items.npy", "README.md"
MOST_STEPS = 100_000  # of a noise schedule: its tables are made before anything is computed
EMBEDDINGS, CHECKSUMS = "item_embeddings.npy", "SHA256SUMS"


@dataclass(frozen=True)
class About:
    """What config.json says.

    model: the configuration of the model as a nested dict.
    seed, sampler_steps, batch_size: as in `recommender.Source`.
    data: name and fingerprint of the data set; step: of the checkpoint.
    metrics: on the test split by their names; empty where the run has none.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    format: Literal["mealrec-export"]
    version: int
    model: dict[str, Any]
    seed: int
    sampler_steps: int
    batch_size: int
    data: dict[str, str]
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Content:
    """An export that was read."""

    about: About
    config: MealRecConfig
    state: dict[str, torch.Tensor]
    item_ids: np.ndarray
    table: FeatureTable | None
    weights_sha256: str


def is_export(path: Path) -> bool:
    """Whether a folder is meant as an export."""
    return (path / CHECKSUMS).is_file() or (path / CONFIG).is_file()


def write(
    folder: Path,
    about: About,
    state: dict[str, torch.Tensor],
    item_ids: np.ndarray,
    embeddings: np.ndarray,
    table: FeatureTable | None,
) -> None:
    """Write an export's files into a folder that is there, all but the card and the checksums."""
    files.write_json(folder / CONFIG, asdict(about))
    (folder / WEIGHTS).write_bytes(save(state, {"format": "pt"}))
    np.save(folder / ITEMS, item_ids, allow_pickle=False)
    np.save(folder / EMBEDDINGS, embeddings, allow_pickle=False)
    if table is not None:
        np.save(folder / FEATURES_FILE, table.features, allow_pickle=False)
        np.save(folder / FRAMES_FILE, table.frames, allow_pickle=False)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of all files in the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CHECKSUMS)
    files.write_text(folder / CHECKSUMS, "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))


def read(folder: Path) -> Content:
    """Return the content of an export, each file compared with its checksum.

    Raises:
        UserError, DataError: a file is missing or damaged, or the export is of another version.
    """
    sums = _read_checksums(folder)
    about = _read_about(folder, sums)
    config = model_config_from(about.model)
    for name in (WEIGHTS, ITEMS):
        _check(folder, name, sums)
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise Damaged(f"{folder / WEIGHTS} is no file of safetensors: {error}") from None
    _check_size(folder, config, state)
    item_ids = open_array(folder / ITEMS, "iU")
    if item_ids.shape != (config.videos,):
        expected = f"[{config.videos}], the videos of {CONFIG}"
        raise UserError(f"{folder / ITEMS}: found {list(item_ids.shape)}, expected {expected}")
    table = _read_table(folder, sums, config) if config.has_video else None
    return Content(about, config, state, item_ids, table, sums[WEIGHTS])


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise Damaged(f"{path} cannot be read: {reason}") from None
    sums = {}
    for number, line in enumerate(lines, start=1):
        sha256, _, name = line.partition("  ")
        if len(sha256) != 64 or not name:
            raise Damaged(f"{path}:{number}: found {line!r:.60}, expected a sha256, two spaces and a name")
        sums[name] = sha256
    return sums


def _check(folder: Path, name: str, sums: dict[str, str]) -> None:
    if name not in sums:
        raise Damaged(f"{folder / CHECKSUMS} does not list {name}, which an export has")
    check_file(folder / name, sums[name])


def _read_about(folder: Path, sums: dict[str, str]) -> About:
    _check(folder, CONFIG, sums)
    path = folder / CONFIG
    found = files.read_json(path)
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise UserError(f"{folder} is an export of version {version}, this program reads version {VERSION}")
    try:
        return TypeAdapter(About).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}") from None


def _check_size(folder: Path, config: MealRecConfig, state: dict[str, torch.Tensor]) -> None:
    """Refuse a model that cannot be, or is larger than its weights, before memory is taken for it."""
    try:
        config.validate()
    except ConfigError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
    layers = config.backbone.layers + (config.tcd.layers if config.has_tcd else 0)
    needed = (config.videos + 1 + config.max_length + layers * config.dim) * config.dim
    needed += (config.npd.hidden * config.dim) ** 2 if config.npd.enabled else 0
    needed += config.width * config.dim if config.has_video else 0
    found = sum(tensor.numel() for tensor in state.values())
    if needed > found:
        raise UserError(f"{folder / CONFIG}: a model of {needed} weights or more, {WEIGHTS} has {found}")
    if max(config.tcd.steps, config.npd.steps) > MOST_STEPS:
        raise UserError(f"{folder / CONFIG}: a schedule of more than {MOST_STEPS} steps")


def _read_table(folder: Path, sums: dict[str, str], config: MealRecConfig) -> FeatureTable:
    shape = (config.videos + 1, config.frames, config.width)
    for name in (FEATURES_FILE, FRAMES_FILE):
        _check(folder, name, sums)
    found = open_array(folder / FEATURES_FILE, "f").dtype.name
    fault = header_fault(folder / FEATURES_FILE, shape, found)
    if fault or (fault := header_fault(folder / FRAMES_FILE, shape[:1], "int64")):
        raise UserError(f"{folder}: frames of the videos: {fault}")
    return FeatureTable(folder)
