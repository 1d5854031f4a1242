"""The checkpoints of a run as files: their names, which are complete, and what they say of themselves.

RUN/checkpoints/step-00001234/   DeepSpeed's files, and checkpoint.json: whose weights, from which data
RUN/checkpoints/latest, best     names of two of them (`latest` in the form of DeepSpeed's own tools)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import files

FACTS = "checkpoint.json"
LATEST, BEST = "latest", "best"


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
    """

    fingerprint: str
    model: dict[str, Any]
    world_size: int
    seed: int
    zero_stage: int
    progress: dict[str, Any]

    @staticmethod
    def read(checkpoint: Path) -> CheckpointFacts:
        """Read the facts of a checkpoint folder.

        Raises:
            UserError: the file is missing or not JSON.
        """
        facts = files.read_json(checkpoint / FACTS)
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
        }
        files.write_json(checkpoint / FACTS, facts)


def tag(step: int) -> str:
    """Return the name of the checkpoint of a global step."""
    return f"step-{step:08d}"


def step(checkpoint: Path) -> int:
    """Return the global step of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    steps = folder.glob("step-*") if folder.is_dir() else ()
    return sorted(path for path in steps if path.name[5:].isdigit() and (path / FACTS).is_file())


def newest(folder: Path) -> Path | None:
    """Return the complete checkpoint with the most steps."""
    checkpoints = complete(folder)
    return checkpoints[-1] if checkpoints else None


def best(folder: Path) -> Path | None:
    """Return the checkpoint that is noted as the best, the newest where there is no such note."""
    note = folder / BEST
    noted = folder / note.read_text().strip() if note.is_file() else None
    return noted if noted is not None and (noted / FACTS).is_file() else newest(folder)
