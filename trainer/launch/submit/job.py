"""What is submitted, whatever the scheduler."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.errors import UserError, line_of


@dataclass(frozen=True)
class Job:
    """A run with `ranks` ranks on each of `nodes` hosts, each with a GPU if `on_gpu`."""

    nodes: int
    ranks: int
    on_gpu: bool
    arguments: tuple[str, ...]
    run: str | None
    data: str | None

    def need_shared_paths(self, where: str) -> None:
        """Raise UserError where a path of the run would be another one, or lost, on each host."""
        for option, path in (("--run", self.run), ("--data", self.data)):
            if path is None or not (path.startswith("/") or "://" in path or path.startswith("pipe:")):
                raise UserError(
                    f"submit {where}: ARGS need {option} with an absolute path that all hosts share,"
                    f" found {path}"
                )


def call(command: Sequence[str], text: str | None = None) -> str:
    """Run a scheduler's own program and return what it prints.

    Raises:
        UserError: the program is missing or refuses.
    """
    try:
        done = subprocess.run(list(command), input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on the PATH: submit from a host that has it") from None
    if done.returncode:
        raise UserError(f"{command[0]}: {line_of(RuntimeError(done.stderr or done.stdout))}")
    return done.stdout.strip()
