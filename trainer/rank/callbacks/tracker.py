"""What a tracker of experiments is told, and what it must do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins."""

    folder: Path
    group: str  # of the sweep or study that the run belongs to; empty for none
    id: str | None  # by which the tracker knows it already
    options: dict[str, Any]  # as nested in config.yaml, so without credentials
    facts: dict[str, Any]  # environment.json: versions, devices, git state, the data and its fingerprint


class Tracker(Protocol):
    """A library that tracks runs. Its methods may take long, and may raise anything."""

    def begin(self, run: TrackedRun) -> tuple[str, dict[str, int]]:
        """Begin the run, or continue it; its id, and for "train" and "valid" the last step that is there."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Add numbers to their curves."""

    def end(self, results: dict[str, Any] | None) -> None:
        """End the run, with the leaves of results.json, or without: it failed or was stopped."""


def leaves(tree: dict[str, Any], separator: str = "/") -> dict[str, Any]:
    """Return the leaves of nested dicts by their path; those that are None are left out."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            below = leaves(value, separator)
            flat |= {f"{name}{separator}{path}": leaf for path, leaf in below.items()}
        elif value is not None:
            flat[str(name)] = value
    return flat
