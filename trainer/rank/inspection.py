"""Finds the checkpoints that are as they were written, and keeps the others aside."""

from __future__ import annotations

import sys
from pathlib import Path

from trainer import checkpoint_files, distributed, files
from trainer.checkpoint_files import CheckpointFacts, Damaged
from trainer.errors import UserError


class Inspection:
    """Of the checkpoints in a folder. Every rank calls every method: they share the work and agree."""

    def __init__(self, folder: Path, world: distributed.World) -> None:
        self.folder, self.world = folder, world
        self._whole: set[str] = set()

    def newest_whole(self) -> Path | None:
        """Return the newest whole checkpoint; newer ones are set aside. None where nothing was saved.

        Raises:
            UserError: none is whole; all stay as they are.
        """
        names = distributed.broadcast_object([path.name for path in checkpoint_files.saved(self.folder)])
        faults: dict[str, str] = {}
        for name in reversed(names):
            fault = self.fault(name)
            if fault is None:
                self._set_aside(faults)
                return self.folder / name
            faults[name] = fault
        if faults:
            raise UserError(f"--resume: no checkpoint is whole; the newest: {faults[names[-1]]}")
        return None

    def is_whole(self, name: str) -> bool:
        """Whether a checkpoint is whole; one that is not is set aside."""
        fault = self.fault(name)
        if fault is not None:
            self._set_aside({name: fault})
        return fault is None

    def fault(self, name: str) -> str | None:
        """Return what is wrong with a checkpoint, the first rank's finding; None where it is whole."""
        if name in self._whole:
            return None
        fault = None
        try:
            facts = CheckpointFacts.read(self.folder / name)
            facts.check(self.folder / name, sorted(facts.files or ())[self.world.rank :: self.world.size])
        except Damaged as error:
            fault = str(error)
        fault = next(filter(None, distributed.gather_objects(fault)), None)
        if fault is None:
            self._whole.add(name)
        return fault

    def _set_aside(self, faults: dict[str, str]) -> None:
        for name, fault in faults.items() if self.world.is_main else ():
            path = self.folder / name
            kept = f"; kept as {files.set_aside(path).name}" if path.exists() else ""
            print(f"warning: {fault}{kept}", file=sys.stderr, flush=True)
        distributed.barrier()
