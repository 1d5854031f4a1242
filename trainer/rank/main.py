"""A rank of a run: everything is put together here, and the loop is started."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mealrec import ops
from shards import TrainStream
from trainer import cpu, distributed, ds_config, files, options, prepare, run_directory
from trainer.batching import Batching
from trainer.config import RunConfig
from trainer.errors import DONE, UserError
from trainer.evaluation import weights
from trainer.evaluation.evaluate import Metrics, evaluate, guards
from trainer.evaluation.results import evaluate_best
from trainer.inputs import Inputs
from trainer.rank import compiled, engine, heartbeat, parent_watch, provenance, watchdog
from trainer.rank.average import WeightAverage
from trainer.rank.callbacks import metrics_file, tracking
from trainer.rank.callbacks.averaging import Averaging
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.callbacks.curves import Curves
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.callbacks.log import Log
from trainer.rank.callbacks.metrics_file import MetricsFile
from trainer.rank.callbacks.monitor import Monitor
from trainer.rank.callbacks.preemption import Preemption
from trainer.rank.callbacks.progress_bar import ProgressBar
from trainer.rank.callbacks.results import Results, RunFacts
from trainer.rank.callbacks.sample_log import SampleLog
from trainer.rank.checkpoint import Checkpoints, remove_leftovers
from trainer.rank.loop import Loop, Progress
from trainer.rank.step import TrainStep
from trainer.rank.warm_start import WarmStart

CURVES, DEEPSPEED = "curves.png", "deepspeed.json"


def main(argv: Sequence[str]) -> int:
    """Train as a process of its own. Returns the exit code.

    Raises:
        UserError, DataError, ConfigError: a user's mistake that was not seen before the start.
        RunEnded: a loss that is not finite, SIGUSR1, a full disk.
    """
    parent_watch.start()
    run(argv)
    distributed.shutdown()
    return DONE


def run(arguments: Sequence[str], callbacks: Sequence[Callback] = (), group: str = "") -> None:
    """Train as the command line says, in the run directory of the operator.

    Rank 0 makes a run directory where there is none. `callbacks` get the same events as the run's own, before
    the results are written. `group` is the sweep or study that a tracker shows the run in.

    Raises:
        UserError, DataError, ConfigError: a user's mistake that was not seen before the start.
        RunEnded: a loss that is not finite, SIGUSR1, a full disk.
    """
    cpu.settle()
    asked = options.parse(arguments)
    world = distributed.init()
    config, lock = prepare.join(
        asked,
        is_main=world.is_main,
        world_size=world.size,
        on_gpu=world.on_gpu,
        broadcast=distributed.broadcast_object,
    )
    try:
        beating = heartbeat.start(world, config.run.host_timeout)
        train(config, world, callbacks, group)
        heartbeat.stop(beating)
    finally:
        if lock is not None:
            lock.release()


def train(
    config: RunConfig, world: distributed.World, callbacks: Sequence[Callback] = (), group: str = ""
) -> None:
    """Do the whole run on this rank: resume or start, train, evaluate, write the results."""
    run_dir = Path(str(config.run.dir))
    if config.resume and run_directory.is_finished(run_dir):
        if world.is_main:
            results = run_dir / run_directory.RESULTS
            print(f"{run_dir} is finished: its results are in {results}", file=sys.stderr)
        return
    prepare_kernels(config.model.kernel, world)
    inputs = Inputs(config.data, config.model, world, config.seed)
    batching = ds_config.settle_batching(config, world.size, on_gpu=world.on_gpu)
    compiles = config.train.compile != "none"
    stream = inputs.train_stream(batching, few_sizes=compiles)
    settings = engine_settings(config, batching, world, run_dir)
    checkpoints = Checkpoints(
        run_dir / run_directory.CHECKPOINTS,
        world,
        fingerprint=inputs.index.fingerprint,
        items=weights.ids_sha256(inputs.index.item_ids()),
        model=inputs.model,
        keep=config.train.keep_checkpoints,
        seed=config.seed,
    )
    if world.is_main:
        remove_leftovers(checkpoints.folder)
    checkpoint, universal = checkpoints.resumable(settings) if config.resume else (None, False)

    model = inputs.build_model()
    start = None
    if config.init_from and checkpoint is None:
        start = WarmStart(config.init_from, inputs.index.item_ids(), inputs.table, is_main=world.is_main)
        start.put_weights(model)
    write_records(config, inputs, settings, world, run_dir)
    built = engine.build(model, config.train, settings, universal=universal)
    if start is not None:
        start.put_moments(built)
    average = WeightAverage(built, config.train.ema) if config.train.ema else None
    checkpoints.attach(built, average)
    if compiles:
        compiled.compile_losses(model, mode=config.train.compile)

    loop = build_loop(config, inputs, stream, checkpoints, settings, callbacks, group)
    if checkpoint is not None:
        checkpoints.load(checkpoint, loop, universal=universal)
    if world.is_main and config.resume:
        fault = metrics_file.cut_back(run_dir / run_directory.METRICS, loop.progress.step)
        if fault:
            print(f"warning: {fault}", file=sys.stderr)
        print(f"continuing {run_dir} after step {loop.progress.step}", file=sys.stderr)
    with watchdog.watching(run_dir, world.rank, config.run.stall_timeout), files.writing(run_dir):
        loop.run()


def prepare_kernels(kernel: str, world: distributed.World) -> None:
    """Build or load the fused kernels; rank 0 logs which.

    Raises:
        UserError: one is asked for by name and cannot be had.
    """
    log = logging.getLogger("mealrec")
    if world.is_main and not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
    try:
        ops.ready(kernel, world.device)
    except (ops.Unavailable, ValueError) as reason:
        raise UserError(f"--model.kernel {kernel}: {reason}") from reason


def build_loop(
    config: RunConfig,
    inputs: Inputs,
    stream: TrainStream,
    checkpoints: Checkpoints,
    settings: dict[str, Any],
    callbacks: Sequence[Callback] = (),
    group: str = "",
) -> Loop:
    """Return the loop with its step and callbacks."""
    world, run_dir = inputs.world, Path(str(config.run.dir))
    model, average = checkpoints.engine, checkpoints.average
    total = stream.steps_per_epoch * config.train.max_epochs
    own_schedule = not settings.get("optimizer") and not settings.get("scheduler")
    user_ids: list[object] = []

    def name_user(sample_id: int) -> object:
        if not user_ids:
            user_ids.extend(inputs.index.user_ids())
        return user_ids[sample_id]

    valid = inputs.eval_stream("valid", config.eval)

    def validate() -> Metrics:
        with average.applied() if average is not None else contextlib.nullcontext():
            metrics = evaluate(model, valid, inputs, config.eval, config.eval.valid_sampler_steps)
            return {**metrics, "guards": guards(model, valid, inputs)}

    evaluation = Evaluation(
        validate if valid.users else None,
        every_steps=config.eval.every_steps,
        patience=config.train.patience,
    )
    checkpointing = Checkpointing(checkpoints, evaluation, every_steps=config.train.save_every_steps)
    preemption = Preemption(checkpointing, run_dir, is_main=world.is_main)
    results = Results(
        run_dir / run_directory.RESULTS,
        lambda: evaluate_best(config, inputs),
        evaluation,
        is_main=world.is_main,
        facts=RunFacts(fingerprint=inputs.index.fingerprint, seed=config.seed, world_size=world.size),
    )
    own: list[Callback] = [] if average is None else [Averaging(average)]
    own += [Log(config.train.log_every), evaluation]
    if world.is_main:
        metrics = run_dir / run_directory.METRICS
        own += [MetricsFile(metrics), ProgressBar(stream.steps_per_epoch, config.train.max_epochs)]
        own += [Monitor(model.monitor)] if model.monitor.enabled else []
        if config.train.track != "none":
            own.append(tracking.make(config.train.track, run_dir, group))
    if config.train.log_samples:
        own.append(SampleLog(run_dir / run_directory.SAMPLES, is_main=world.is_main))
    own += [checkpointing, preemption]
    own += [Curves(run_dir / run_directory.METRICS, run_dir / CURVES)] if world.is_main else []
    progress = Progress()
    step = TrainStep(
        model,
        world,
        on_device=inputs.on_device,
        learning_rates=(lambda index: engine.learning_rates(index, total, config.train))
        if own_schedule
        else None,
        name_user=name_user,
        preempted=preemption.requested,
        may_skip=lambda: progress.skipped < config.train.nonfinite_budget,
    )
    # The file of `results` says that the run is finished, so it comes last.
    return Loop(step, stream, [*own, *callbacks, results], progress, config.train.max_epochs)


def engine_settings(
    config: RunConfig, batching: Batching, world: distributed.World, run_dir: Path
) -> dict[str, Any]:
    """Return DeepSpeed's configuration for this device."""
    from deepspeed.accelerator import get_accelerator

    return ds_config.engine_config(
        config,
        batching,
        on_gpu=world.on_gpu,
        has_bf16=get_accelerator().is_bf16_supported(),
        run_dir=run_dir,
    )


def write_records(
    config: RunConfig, inputs: Inputs, settings: dict[str, Any], world: distributed.World, run_dir: Path
) -> None:
    """Write what the run is made with, for readers and for later runs that start from it."""
    index = inputs.index
    about = provenance.describe(
        world, seed=config.seed, fingerprint=index.fingerprint, data=str(config.data.path)
    )
    if world.is_main:
        files.write_json(run_dir / run_directory.ENVIRONMENT, about)
        files.write_text(run_dir / DEEPSPEED, json.dumps(settings, indent=2) + "\n")
        weights.keep_ids(run_dir, index.item_ids())
