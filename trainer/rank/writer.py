"""Writes the files of a checkpoint in a thread, from copies in host memory, while training goes on."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from shards.format.files import file_sha256
from trainer import files
from trainer.errors import UserError


class Writer:
    """Collects the files of one checkpoint, then writes them in a thread. One checkpoint at a time."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Callable[[Path], None]]] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state_dict: Any, path: str) -> None:
        """Take a copy of a state, to be written by `torch.save`. DeepSpeed's engine calls this with names."""
        self._files.append((Path(path), functools.partial(torch.save, to_host(state_dict))))

    def save_weights(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        """Take tensors, which the caller leaves alone from now on, to be written as safetensors."""
        self._files.append((path, functools.partial(save_file, tensors)))

    def start(self, then: Callable[[dict[str, str]], None]) -> None:
        """Write what was collected, and then call `then` with the sha256 of each file by its name."""
        own, self._files = self._files, []
        self._thread = threading.Thread(target=self._run, args=(own, then), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended the thread.

        Raises:
            UserError: a file cannot be written.
        """
        error, self._error = self._error, None
        if isinstance(error, OSError | SafetensorError):
            raise UserError(f"the checkpoint cannot be written: {error}") from None
        if error is not None:
            raise error

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the checkpoint is written; then as `check`."""
        if self._thread is not None:
            self._thread.join(seconds)
        self.check()

    def _run(
        self, own: list[tuple[Path, Callable[[Path], None]]], then: Callable[[dict[str, str]], None]
    ) -> None:
        try:
            written = {}
            while own:  # a copy in memory goes as soon as it is written
                path, write = own.pop(0)
                write(path)
                files.sync(path)
                written[path.name] = file_sha256(path)
            then(written)
        except BaseException as error:
            self._error = error


def to_host(state: Any) -> Any:
    """Return a copy of a state in host memory that no later step of training changes."""
    if torch.is_tensor(state):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: to_host(value) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(to_host(value) for value in state)
    return copy.deepcopy(state)
