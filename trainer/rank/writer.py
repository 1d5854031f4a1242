"""Writes the files of a checkpoint in a thread, from copies in host memory, while training goes on."""

from __future__ import annotations

import copy
import functools
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from shards import file_sha256
from trainer import files
from trainer.errors import UserError


class Writer:
    """Collects the files of one checkpoint, then writes them in a thread. One checkpoint at a time."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Callable[[Path], None]]] = []
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._done = True

    def save(self, state_dict: Any, path: str) -> None:
        """Take a copy of a state, to be written by `torch.save`. DeepSpeed's engine calls this with names."""
        self._files.append((Path(path), functools.partial(_torch_save, to_host(state_dict))))

    def save_weights(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        """Take tensors, which the caller leaves alone from now on, to be written as safetensors."""
        self._files.append((path, functools.partial(_save_weights, tensors)))

    def start(self, then: Callable[[dict[str, str]], None]) -> None:
        """Write what was collected, and then call `then` with the sha256 of each file by its name."""
        own, self._files, self._done = self._files, [], False
        self._thread = threading.Thread(target=self._run, args=(own, then), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended the thread, once.

        Raises:
            UserError: a file cannot be written.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the thread, then as `check`. Returns whether it has done all of its work."""
        if self._thread is not None:
            self._thread.join(seconds)
        self.check()
        return self._done

    def _run(
        self, own: list[tuple[Path, Callable[[Path], None]]], then: Callable[[dict[str, str]], None]
    ) -> None:
        try:
            written: dict[str, str] = {}
            while own:  # a copy in memory goes as soon as it is written
                written.update([_write(*own.pop(0))])
            then(written)
            self._done = True
        except Exception as error:
            self._error = error


def _write(path: Path, write: Callable[[Path], None]) -> tuple[str, str]:
    """Write a file to the disk. Returns its name and its sha256."""
    try:
        write(path)
        files.sync(path)
        return path.name, file_sha256(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}") from error


def _save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # whose text alone has the system's own
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from None


def _torch_save(state: Any, path: Path) -> None:
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # with which torch covers the system's own
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def to_host(state: Any) -> Any:
    """Return a copy of a state in host memory that no later step of training changes."""
    if torch.is_tensor(state):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: to_host(value) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(to_host(value) for value in state)
    return copy.deepcopy(state)
