"""The checkpoints of a run as files: their names, which are complete, and what they say of themselves.

RUN/checkpoints/step-00001234/   weights.safetensors, DeepSpeed's files, and checkpoint.json: whose weights,
                                 from which data, and the sha256 of every file
RUN/checkpoints/latest, best     names of two of them (`latest` in the form of DeepSpeed's own tools)
RUN/checkpoints/damaged-...      what a resume found to be other than was written
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards import file_sha256
from trainer import files
from trainer.errors import UserError

FACTS = "checkpoint.json"
WEIGHTS = "weights.safetensors"
LATEST, BEST = "latest", "best"

_NAME = re.compile(r"step-\d+")
_TYPES = {
    "fingerprint": str,
    "model": dict,
    "world": int,
    "seed": int,
    "zero_stage": int,
    "progress": dict,
    "items": str,
    "files": dict,
    "sha256": str,
}
_LATER = {"items", "files", "sha256"}  # the first checkpoints did not have these


class Damaged(UserError):
    """A file is not what the run has written."""


@dataclass(frozen=True)
class CheckpointFacts:
    """What checkpoint.json says.

    Attributes:
        fingerprint: of the data that the weights were trained on.
        model: the model's configuration as a nested dict.
        world_size: ranks that saved it.
        seed: of the run.
        zero_stage: ZeRO stage of the optimiser state.
        progress: how far the run was, as `rank.loop.Progress` writes it.
        items: sha256 of the run's items.npy; None where the checkpoint is older than checksums.
        files: sha256 of every other file by its name; None as above.
    """

    fingerprint: str
    model: dict[str, Any]
    world_size: int
    seed: int
    zero_stage: int
    progress: dict[str, Any]
    items: str | None = None
    files: dict[str, str] | None = None

    @staticmethod
    def read(checkpoint: Path) -> CheckpointFacts:
        """Read the facts of a checkpoint folder.

        Raises:
            Damaged: the file is missing, or not what was written.
        """
        path = checkpoint / FACTS
        try:
            facts = files.read_json(path)
        except UserError as error:
            raise Damaged(str(error)) from None
        if not isinstance(facts, dict) or set(facts) not in (set(_TYPES), set(_TYPES) - _LATER):
            raise Damaged(f"{path} has other keys than were written")
        for name, value in facts.items():
            if not isinstance(value, _TYPES[name]):
                raise Damaged(f"{path}: {name} is {value!r}, expected {_TYPES[name].__name__}")
        if facts.pop("sha256", None) not in (None, _digest(facts)):
            raise Damaged(f"{path} has another content than was written")
        if not isinstance(facts["progress"].get("step"), int):
            raise Damaged(f"{path}: progress has no step")
        return CheckpointFacts(world_size=facts.pop("world"), **facts)

    def write(self, checkpoint: Path) -> None:
        """Write the facts into a checkpoint folder."""
        facts = {
            "fingerprint": self.fingerprint,
            "model": self.model,
            "world": self.world_size,
            "seed": self.seed,
            "zero_stage": self.zero_stage,
            "progress": self.progress,
            "items": self.items,
            "files": self.files,
        }
        files.write_json(checkpoint / FACTS, {**facts, "sha256": _digest(facts)})

    def check(self, checkpoint: Path, names: Iterable[str]) -> None:
        """Compare files of the checkpoint with what was written.

        Raises:
            Damaged: one is missing or has another content.
        """
        if self.files is None:
            return
        for name in names:
            check_file(checkpoint / name, self.files.get(name, ""))


def check_file(path: Path, sha256: str) -> None:
    """Compare a file with what was written.

    Raises:
        Damaged: it is missing or has another content.
    """
    try:
        found = file_sha256(path)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from None
    if found != sha256:
        raise Damaged(f"{path} has another content than was written")


def tag(step: int) -> str:
    """Return the name of the checkpoint of a global step."""
    return f"step-{step:08d}"


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints that were saved into a folder, oldest first, damaged or not."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def step(checkpoint: Path) -> int:
    """Return the global step of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints that have their facts, oldest first."""
    return [path for path in saved(folder) if (path / FACTS).is_file()]


def newest(folder: Path) -> Path | None:
    """Return the complete checkpoint with the most steps."""
    checkpoints = complete(folder)
    return checkpoints[-1] if checkpoints else None


def best(folder: Path) -> Path | None:
    """Return the checkpoint that is noted as the best, the newest where there is no such note.

    Raises:
        Damaged: the note names none.
    """
    note = folder / BEST
    if not note.is_file():
        return newest(folder)
    name = note.read_text(encoding="utf-8", errors="replace").strip()
    if not _NAME.fullmatch(name) or not (folder / name).is_dir():
        raise Damaged(f"{note} names {name!r}: there is no such checkpoint")
    return folder / name


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
