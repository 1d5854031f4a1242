"""What a run directory says of a run, read and checked; nothing here opens weights or data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shards.format.json_faults import first_fault
from trainer import files, metrics_file, options, run_directory
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.evaluation import ranks
from trainer.evaluation.ranks import Ranks

Metrics = dict[str, float]
T = TypeVar("T", bound=BaseModel)


class _File(BaseModel):
    """A JSON file of a run; fields that the report does not read may be anything."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Results(_File):
    """results.json."""

    valid: Metrics | None = None
    test: Metrics | None = None
    popularity: Metrics | None = None
    oracle: Metrics | None = None
    fingerprint: str = ""
    best_step: int = 0
    epochs: int = 0
    steps: int = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    world_size: Annotated[int, Field(ge=1)] = 1
    stopped: str | None = None

    def of(self, split: str) -> Metrics | None:
        """Return the metrics of the best weights on "valid" or "test"."""
        return self.valid if split == "valid" else self.test


class Device(_File):
    """Where a rank computed."""

    device: str = "cpu"
    name: str = ""
    threads: Annotated[int, Field(ge=1)] = 1


class Environment(_File):
    """environment.json."""

    started: str = ""
    fingerprint: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    devices: list[Device] = Field(default_factory=list)


@dataclass(frozen=True)
class RunFacts:
    """What a run says of itself.

    name: what the page calls it. records: of metrics.jsonl, without its `damaged` lines. results: None where
    the run has not finished. ranks: of one split, by user; None where nobody has written them.
    """

    name: str
    path: Path
    config: RunConfig
    environment: Environment
    results: Results | None = None
    records: list[metrics_file.Record] = field(default_factory=list)
    damaged: int = 0
    ranks: Ranks | None = None

    @property
    def fingerprint(self) -> str:
        """Of the data set that it was trained on; empty where that is not known."""
        return (self.results.fingerprint if self.results else "") or self.environment.fingerprint


def read_runs(paths: list[str], split: str) -> list[RunFacts]:
    """Read the runs, the ranks of one split among them.

    Raises:
        UserError: no run there, one given twice, one that has nothing to report yet, or a damaged file.
    """
    seen: dict[Path, str] = {}
    for path in paths:
        if other := seen.get(Path(path).resolve()):
            raise UserError(f"{path} and {other} are the same run: give it once")
        seen[Path(path).resolve()] = path
    return [_read(Path(path), name, split) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: list[str]) -> list[str]:
    """The names of the folders, or the paths as given where two have the same."""
    names = [Path(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else paths


def _read(path: Path, name: str, split: str) -> RunFacts:
    if not (path / run_directory.CONFIG).is_file():
        raise UserError(f"{path} holds no run: no {run_directory.CONFIG} there")
    finished = run_directory.is_finished(path)
    metrics = path / run_directory.METRICS
    records = metrics_file.read(metrics)
    if not finished and not records:
        expected = f"{run_directory.RESULTS}, or lines in {run_directory.METRICS}"
        raise UserError(f"{path} has nothing to report yet: expected {expected}")
    environment = path / run_directory.ENVIRONMENT
    return RunFacts(
        name=name,
        path=path,
        config=options.load_run(path),
        environment=_checked(environment, Environment) if environment.exists() else Environment(),
        results=_checked(path / run_directory.RESULTS, Results) if finished else None,
        records=records,
        damaged=metrics_file.damaged_lines(metrics),
        ranks=ranks.read(file) if (file := run_directory.ranks(path, split)).exists() else None,
    )


def _checked(path: Path, kind: type[T]) -> T:
    """A JSON file as an object.

    Raises:
        UserError: it is not what a run writes.
    """
    content: Any = files.read_json(path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}") from None
