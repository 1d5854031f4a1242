"""Saves and loads checkpoints, whole or not at all, on any number of ranks.

A save copies the state to host memory and returns; threads write the files, under another name that changes
when they are complete, so that a killed save leaves nothing that a resume would take up. Only the thread of
rank 0 completes a checkpoint: the others report their files to it through the folder, as a thread cannot take
part in collectives. ZeRO's optimiser state is bound to the number of ranks; for another number it is
converted to DeepSpeed's universal form first.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from mealrec import MealRecConfig
from trainer import distributed, ds_config, files
from trainer.checkpoint_files import BEST, LATEST, WEIGHTS, CheckpointFacts, complete, tag
from trainer.errors import UserError
from trainer.rank.inspection import Inspection
from trainer.rank.universal import (
    UNIVERSAL,
    UNIVERSAL_INFO,
    group_settings,
    mend_optimizer,
    remove_universal,
    to_universal,
)
from trainer.rank.writer import Writer
from trainer.tensors_only import tensors_only

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from trainer.rank.average import WeightAverage
    from trainer.rank.loop import Loop

PARTIAL, OLD = ".partial", ".old"
STATE = "mealrec"  # our part of DeepSpeed's client state
POLL_SECONDS = 0.02  # between two looks for another rank's report


class Checkpoints:
    """The checkpoints of one run. `attach` gives it the engine, and every rank calls every method."""

    def __init__(
        self,
        folder: Path,
        world: distributed.World,
        *,
        fingerprint: str,
        items: str,
        model: MealRecConfig,
        keep: int,
        seed: int,
    ) -> None:
        """Set what every checkpoint says of itself.

        Args:
            items: sha256 of the run's copy of the original item ids.
            keep: checkpoints kept besides the best one.
        """
        self.folder, self.world, self.keep = folder, world, keep
        self.fingerprint, self.items, self.model, self.seed = fingerprint, items, asdict(model), seed
        self._writer, self._inspection = Writer(), Inspection(folder, world)

    def attach(self, engine: DeepSpeedEngine, average: WeightAverage | None = None) -> None:
        """Save and load this engine from now on, and the average of its weights where there is one."""
        self.engine, self.average = engine, average
        # DeepSpeed gathers the state, and hands each file to us instead of writing it.
        engine.checkpoint_engine.save = self._writer.save

    def save(self, loop: Loop, best_step: int | None) -> None:
        """Copy engine, progress and callbacks, and begin to write them; the save before is finished first.

        When they are written, the best checkpoint is noted and old ones are removed.
        """
        self.finish()
        progress = loop.progress
        partial = self.folder / (tag(progress.step) + PARTIAL)
        state = {
            "progress": progress.state_dict(),
            "stream": loop.stream.state_dict(progress.epoch, progress.epoch_step),
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in loop.callbacks},
            "fingerprint": self.fingerprint,
            "model": self.model,
            "world": self.world.size,
            "seed": self.seed,
        }
        if self.world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        distributed.barrier()
        self.engine.save_checkpoint(
            str(self.folder),
            tag=partial.name,
            client_state={STATE: state, **UNIVERSAL_INFO},
            save_latest=False,
        )
        weights = _full_weights(self.engine, self.average)
        if self.world.is_main:
            self._writer.save_weights({name: _copy(full) for name, full in weights}, partial / WEIGHTS)
        else:
            for _ in weights:
                pass  # ranks gather each together
        facts = CheckpointFacts(
            fingerprint=self.fingerprint,
            model=self.model,
            world_size=self.world.size,
            seed=self.seed,
            zero_stage=ds_config.zero_stage(self.engine.config),
            progress=progress.state_dict(),
            items=self.items,
        )
        self._writer.start(functools.partial(self._complete, partial, facts, best_step))

    def check(self) -> None:
        """Raise the error of a save that this rank could not write.

        Raises:
            UserError: a file cannot be written.
        """
        self._writer.check()

    def finish(self) -> None:
        """Wait until every rank has written its files and the checkpoint is complete.

        Raises:
            UserError: a file of this rank cannot be written.
        """
        self._writer.wait()
        distributed.barrier()

    def finish_alone(self, seconds: float) -> None:
        """As `finish`, for a run that fails: other ranks may be gone, so no longer than some seconds."""
        deadline = time.monotonic() + seconds
        if self._writer.wait(seconds):
            # A rank that ends may take rank 0 with it, before that has completed the checkpoint.
            while any(self.folder.glob(f"*{PARTIAL}")) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def load(self, checkpoint: Path, loop: Loop, *, universal: bool) -> None:
        """Put the state of a checkpoint into engine, stream, progress and callbacks.

        Raises:
            DataError: the stream's order does not fit (other seed, batch size or lengths).
            UserError: it holds more than tensors.
        """
        name = checkpoint.name + (UNIVERSAL if universal else "")
        settings = group_settings(self.engine)
        with tensors_only(checkpoint):
            _, client = self.engine.load_checkpoint(str(self.folder), tag=name)
        if universal:
            mend_optimizer(self.engine, settings)
        if self.average is not None:
            self.average.load(load_file(checkpoint / WEIGHTS))
        state = client[STATE]
        loop.progress.load_state_dict(state["progress"])
        loop.progress.epoch, loop.progress.epoch_step = loop.stream.load_state_dict(state["stream"])
        for callback in loop.callbacks:
            callback.load_state_dict(state["callbacks"].get(type(callback).__name__, {}))
        distributed.barrier()
        if universal and self.world.is_main:
            remove_universal(checkpoint)

    def resumable(self, config: dict[str, Any]) -> tuple[Path | None, bool]:
        """Return the newest whole checkpoint, and whether it was converted to the universal form.

        Newer ones that are damaged are set aside.

        Args:
            config: the DeepSpeed configuration with which it will be loaded.

        Raises:
            UserError: none is whole; or made from other data, of another model, or with another kind of
                optimiser state.
        """
        checkpoint = self._inspection.newest_whole()
        if checkpoint is None:
            return None, False
        facts = CheckpointFacts.read(checkpoint)
        self._check(checkpoint, facts, ds_config.zero_stage(config))
        stage = facts.zero_stage
        convert = stage > 0 and (facts.world_size != self.world.size or stage != ds_config.zero_stage(config))
        if convert and self.world.is_main:
            to_universal(checkpoint)
        distributed.barrier()
        return checkpoint, convert

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a step is as it was written; one that is not is set aside."""
        return self._inspection.is_whole(tag(step))

    def _complete(
        self, partial: Path, facts: CheckpointFacts, best_step: int | None, written: dict[str, str]
    ) -> None:
        """Report this rank's files, sha256 by name. Rank 0 completes the checkpoint when all reported."""
        files.write_json(partial / _report(self.world.rank), written)
        if not self.world.is_main:
            return
        for rank in range(self.world.size):
            report = partial / _report(rank)
            while not report.exists():
                time.sleep(POLL_SECONDS)
            written |= files.read_json(report)
            report.unlink()
        replace(facts, files=written).write(partial)
        files.sync(partial)
        final = partial.with_suffix("")
        _remove(final)
        os.rename(partial, final)
        files.sync(self.folder)
        files.write_text(self.folder / LATEST, final.name)
        if best_step is not None:
            files.write_text(self.folder / BEST, tag(best_step))
        else:
            (self.folder / BEST).unlink(missing_ok=True)
        self._remove_old(final.name, best_step)

    def _remove_old(self, newest_name: str, best_step: int | None) -> None:
        kept = {newest_name} | ({tag(best_step)} if best_step is not None else set())
        others = [path for path in complete(self.folder) if path.name not in kept]
        for path in others[: max(0, len(others) - max(0, self.keep - 1))]:
            _remove(path)

    def _check(self, checkpoint: Path, facts: CheckpointFacts, stage: int) -> None:
        if facts.fingerprint != self.fingerprint:
            raise UserError(
                f"--resume: {checkpoint} was made from other data: fingerprint {facts.fingerprint},"
                f" the data set has {self.fingerprint}"
            )
        difference = first_difference(facts.model, self.model, "model")
        if difference:
            name, saved, now = difference
            raise UserError(
                f"--resume: {checkpoint} holds another model: {name} is {saved!r} there and {now!r} now"
            )
        if facts.zero_stage != stage and not {facts.zero_stage, stage} <= {1, 2}:
            raise UserError(
                f"--resume: {checkpoint} was saved with --train.zero_stage {facts.zero_stage}:"
                f" it cannot continue with {stage}"
                " (only 1 and 2 keep their optimiser state in the same form)"
            )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed saves and conversions have left."""
    for path in folder.glob("step-*"):
        if path.suffix in (PARTIAL, UNIVERSAL):
            shutil.rmtree(path, ignore_errors=True)


def first_difference(saved: Any, now: Any, name: str) -> tuple[str, Any, Any] | None:
    """Return the first field, by dotted name, in which two nested dicts differ, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in sorted({*saved, *now}):
            difference = first_difference(saved.get(key), now.get(key), f"{name}.{key}")
            if difference:
                return difference
        return None
    return None if saved == now else (name, saved, now)


def _full_weights(
    engine: DeepSpeedEngine, average: WeightAverage | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter by name, whole, one after the other: its average where there is one. For every rank."""
    from deepspeed.utils import safe_get_full_fp32_param

    if average is not None:
        yield from average.full()
        return
    sharded = ds_config.zero_stage(engine.config) > 0
    for name, parameter in engine.module.named_parameters():
        yield name, safe_get_full_fp32_param(parameter) if sharded else parameter


def _copy(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32, copy=True).contiguous()


def _report(rank: int) -> str:
    """The name of a rank's report of its files, within the partial checkpoint."""
    return f"rank-{rank}.json"


def _remove(path: Path) -> None:
    """Remove a checkpoint such that a kill in between leaves none that looks complete."""
    if path.exists():
        gone = path.with_name(path.name + OLD + PARTIAL)  # not the name of one that is to replace it
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone)
