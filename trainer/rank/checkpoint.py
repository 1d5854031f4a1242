"""Saves and loads checkpoints, whole or not at all, on any number of ranks.

A checkpoint is written under another name and renamed when it is complete, so that a killed save leaves
nothing that a resume would take up. ZeRO's optimiser state is bound to the number of ranks; for another
number it is converted to DeepSpeed's universal form first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mealrec import MealRecConfig
from trainer import distributed, ds_config, files
from trainer.checkpoint_files import BEST, LATEST, CheckpointFacts, complete, newest, tag
from trainer.errors import UserError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from trainer.rank.loop import Loop

PARTIAL, OLD, UNIVERSAL = ".partial", ".old", ".universal"
LATEST_UNIVERSAL = "latest_universal"  # a note of DeepSpeed's converter
STATE = "mealrec"  # our part of DeepSpeed's client state
# Without it DeepSpeed does not convert a checkpoint of ZeRO 2.
UNIVERSAL_INFO = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


class Checkpoints:
    """The checkpoints of one run. `engine` is set once it is built, and every rank calls every method."""

    engine: DeepSpeedEngine

    def __init__(
        self,
        folder: Path,
        world: distributed.World,
        *,
        fingerprint: str,
        model: MealRecConfig,
        keep: int,
        seed: int,
    ) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self.fingerprint, self.model, self.seed = fingerprint, asdict(model), seed

    def save(self, loop: Loop, best_step: int | None) -> None:
        """Save engine, progress and callbacks; then note the best checkpoint and remove old ones."""
        progress = loop.progress
        name = tag(progress.step)
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
            shutil.rmtree(self.folder / (name + PARTIAL), ignore_errors=True)
        distributed.barrier()
        self.engine.save_checkpoint(
            str(self.folder),
            tag=name + PARTIAL,
            client_state={STATE: state, **UNIVERSAL_INFO},
            save_latest=False,
        )
        if self.world.is_main:
            self._publish(name, progress.state_dict())
            if best_step is not None:
                files.write_text(self.folder / BEST, tag(best_step))
            self._remove_old(name, best_step)
        distributed.barrier()

    def load(self, checkpoint: Path, loop: Loop, *, universal: bool) -> None:
        """Put the state of a checkpoint into engine, stream, progress and callbacks.

        Raises:
            DataError: the stream's order does not fit (other seed, batch size or lengths).
        """
        name = checkpoint.name + (UNIVERSAL if universal else "")
        settings = _group_settings(self.engine)
        _, client = self.engine.load_checkpoint(str(self.folder), tag=name)
        if universal:
            _mend_optimizer(self.engine, settings)
        state = client[STATE]
        loop.progress.load_state_dict(state["progress"])
        loop.progress.epoch, loop.progress.epoch_step = loop.stream.load_state_dict(state["stream"])
        for callback in loop.callbacks:
            callback.load_state_dict(state["callbacks"].get(type(callback).__name__, {}))
        distributed.barrier()
        if universal and self.world.is_main:
            shutil.rmtree(self.folder / name)
            (self.folder / LATEST_UNIVERSAL).unlink(missing_ok=True)

    def resumable(self, config: dict[str, Any]) -> tuple[Path | None, bool]:
        """Return the newest complete checkpoint, and whether it was converted to the universal form.

        Args:
            config: the DeepSpeed configuration with which it will be loaded.

        Raises:
            UserError: made from other data, of another model, or with another kind of optimiser state.
        """
        checkpoint = newest(self.folder)
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

    def _publish(self, name: str, progress: dict[str, Any]) -> None:
        partial, final = self.folder / (name + PARTIAL), self.folder / name
        CheckpointFacts(
            fingerprint=self.fingerprint,
            model=self.model,
            world_size=self.world.size,
            seed=self.seed,
            zero_stage=ds_config.zero_stage(self.engine.config),
            progress=progress,
        ).write(partial)
        for file in partial.iterdir():
            files.sync(file)
        _remove(final)
        os.rename(partial, final)
        files.sync(self.folder)
        files.write_text(self.folder / LATEST, name)

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
        if (facts.zero_stage == 0) != (stage == 0):
            raise UserError(
                f"--resume: {checkpoint} was saved with --train.zero_stage {facts.zero_stage}:"
                f" it cannot continue with {stage}"
                " (0 and 1 to 3 keep their optimiser state in different forms)"
            )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed saves and conversions have left."""
    for path in folder.glob("step-*"):
        if path.suffix in (PARTIAL, UNIVERSAL):
            shutil.rmtree(path, ignore_errors=True)


def to_universal(checkpoint: Path) -> Path:
    """Convert a checkpoint of ZeRO 1 to 3 to DeepSpeed's universal form, beside it."""
    from deepspeed.checkpoint import ds_to_universal

    output = checkpoint.with_name(checkpoint.name + UNIVERSAL)
    shutil.rmtree(output, ignore_errors=True)
    settings = argparse.Namespace(
        input_folder=str(checkpoint),
        output_folder=str(output),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(settings)
    return output


def first_difference(saved: Any, now: Any, name: str) -> tuple[str, Any, Any] | None:
    """Return the first field, by dotted name, in which two nested dicts differ, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in sorted({*saved, *now}):
            difference = first_difference(saved.get(key), now.get(key), f"{name}.{key}")
            if difference:
                return difference
        return None
    return None if saved == now else (name, saved, now)


def _group_settings(engine: DeepSpeedEngine) -> list[dict[str, Any]]:
    """Weight decay and the like of each parameter group."""
    groups = engine.optimizer.param_groups
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def _mend_optimizer(engine: DeepSpeedEngine, settings: list[dict[str, Any]]) -> None:
    """Undo two faults of DeepSpeed 0.19.8's universal ZeRO-3 load with more than one parameter group.

    It gives every group the settings of the first one (so that embeddings decay), and all partitions the same
    tensor for AdamW's step count, which each of them then advances.
    """
    for group, own in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(own)
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in base.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _remove(path: Path) -> None:
    """Remove a checkpoint such that a kill in between leaves none that looks complete."""
    if path.exists():
        gone = path.with_name(path.name + OLD + PARTIAL)  # not the name of one that is to replace it
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone)
