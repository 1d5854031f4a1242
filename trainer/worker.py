"""A rank of a run: everything is put together here, and the loop is started."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mealrec import ops
from trainer import (
    checkpoint,
    dist,
    ds_config,
    engine,
    environment,
    final,
    heartbeat,
    operator,
    options,
    rundir,
    watch,
    weights,
)
from trainer.callbacks import metrics_file
from trainer.callbacks.base import Callback
from trainer.callbacks.checkpointing import Checkpointing
from trainer.callbacks.curves import Curves
from trainer.callbacks.evaluation import Evaluation
from trainer.callbacks.log import Log
from trainer.callbacks.metrics_file import MetricsFile
from trainer.callbacks.monitor import Monitor
from trainer.callbacks.preemption import Preempted, Preemption
from trainer.callbacks.progress_bar import ProgressBar
from trainer.callbacks.results import Results
from trainer.config import RunConfig
from trainer.errors import DONE, FAILED, UserError
from trainer.evaluate import evaluate, guards
from trainer.inputs import Inputs
from trainer.loop import Loop, Progress
from trainer.nonfinite import NonFiniteError
from trainer.step import TrainStep

CURVES, DEEPSPEED = "curves.png", "deepspeed.json"


def main(argv: Sequence[str]) -> int:
    """`run` as a process of its own. Returns the exit code: 0 done, 1 for a loss that is not finite.

    Raises:
        UserError, DataError, ConfigError: a user's mistake that was not seen before the start.
    """
    watch.start()
    try:
        run(argv)
    except (NonFiniteError, Preempted) as error:
        if os.environ["RANK"] == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return FAILED
    dist.shutdown()
    return DONE


def run(argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
    """Train as the command line says, in the run directory of the operator (rank 0 makes one where there is
    none). `callbacks` hear what the run's own hear, before the results are written.

    Raises:
        UserError, DataError, ConfigError: a user's mistake that was not seen before the start.
        NonFiniteError: a loss that is not finite.
    """
    asked = options.parse(argv)
    world = dist.init()
    config, lock = operator.join(
        asked, is_main=world.is_main, world=world.size, on_gpu=world.on_gpu, broadcast=dist.broadcast_object
    )
    try:
        beating = heartbeat.start(world, config.run.host_timeout)
        train(config, world, callbacks)
        heartbeat.stop(beating)
    finally:
        if lock is not None:
            lock.release()


def train(config: RunConfig, world: dist.World, more: Sequence[Callback] = ()) -> None:
    """The whole run on this rank: resume or start, train, evaluate, write the results."""
    run = Path(config.run.dir)
    if config.resume and rundir.is_finished(run):
        if world.is_main:
            print(f"{run} is finished: its results are in {run / rundir.RESULTS}", file=sys.stderr)
        return
    ready_kernels(config.model.kernel, world)
    inputs = Inputs(config.data, config.model, world)
    batching = ds_config.settle_batching(config, world.size, on_gpu=world.on_gpu)
    stream = inputs.train_stream(batching, config.seed)
    settings = engine_settings(config, batching, world, run)
    checkpoints = checkpoint.Checkpoints(
        run / rundir.CHECKPOINTS,
        world,
        fingerprint=inputs.index.fingerprint,
        model=inputs.model,
        keep=config.train.keep_checkpoints,
        seed=config.seed,
    )
    found, universal = checkpoints.resumable(settings) if config.resume else (None, False)
    if world.is_main and not universal:
        checkpoint.clean(checkpoints.folder)

    model = inputs.build_model(config.seed)
    if config.init_from and found is None:
        matched = weights.start_from(model, config.init_from, inputs.index.item_ids())
        if world.is_main:
            print(
                f"started from {config.init_from}: {matched['matched']} videos known, {matched['new']} new",
                file=sys.stderr,
            )
    write_records(config, inputs, settings, world, run)
    checkpoints.engine = engine.build(model, config.train, settings, universal=universal)

    loop = build_loop(config, inputs, stream, checkpoints, settings, more)
    if found is not None:
        checkpoints.load(found, loop, universal=universal)
    if world.is_main and config.resume:
        metrics_file.cut_back(run / rundir.METRICS, loop.progress.step)
        print(f"continuing {run} after step {loop.progress.step}", file=sys.stderr)
    loop.run()


def ready_kernels(kernel: str, world: dist.World) -> None:
    """Makes the diffusion kernels ready, which rank 0 says. Raises UserError where one is asked for by name
    and cannot be had.
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
    stream: Any,
    checkpoints: checkpoint.Checkpoints,
    settings: dict[str, Any],
    more: Sequence[Callback] = (),
) -> Loop:
    """The loop with its step and callbacks."""
    world, run, settings_eval, built = inputs.world, Path(config.run.dir), config.eval, checkpoints.engine
    total = stream.steps_per_epoch * config.train.max_epochs
    own_schedule = not settings.get("optimizer") and not settings.get("scheduler")
    user_ids: list[Any] = []

    def name_user(sample_id: int) -> Any:
        if not user_ids:
            user_ids.extend(inputs.index.user_ids())
        return user_ids[sample_id]

    valid = inputs.eval_stream("valid", settings_eval)

    def validate() -> dict[str, Any]:
        found = evaluate(built, valid, inputs, config, settings_eval.valid_sampler_steps)
        return {**found, "guards": guards(built, valid, inputs, config.seed)}

    evaluation = Evaluation(
        validate if valid.users else None,
        every_steps=settings_eval.every_steps,
        patience=config.train.patience,
    )
    checkpointing = Checkpointing(checkpoints, evaluation, every_steps=config.train.save_every_steps)
    preemption = Preemption(checkpointing)
    results = Results(
        run / rundir.RESULTS,
        lambda: final.evaluate_best(config, inputs),
        evaluation,
        is_main=world.is_main,
        facts={"fingerprint": inputs.index.fingerprint, "seed": config.seed, "world_size": world.size},
    )
    callbacks: list[Callback] = [Log(config.train.log_every), evaluation]
    if world.is_main:
        metrics = run / rundir.METRICS
        callbacks += [MetricsFile(metrics), ProgressBar(stream.steps_per_epoch, config.train.max_epochs)]
        callbacks += [Monitor(built.monitor)] if built.monitor.enabled else []
    callbacks += [checkpointing, preemption]
    callbacks += [Curves(run / rundir.METRICS, run / CURVES)] if world.is_main else []
    callbacks += [*more, results]  # its file says that the run is finished, so it is the last
    step = TrainStep(
        built,
        world,
        seed=config.seed,
        join=inputs.join,
        name_user=name_user,
        told=preemption.told,
        rate=(lambda index: engine.learning_rate(index, total, config.train)) if own_schedule else None,
    )
    return Loop(step, stream, callbacks, Progress(), config.train.max_epochs)


def engine_settings(config: RunConfig, batching: Any, world: dist.World, run: Path) -> dict[str, Any]:
    """DeepSpeed's configuration for this device."""
    from deepspeed.accelerator import get_accelerator

    return ds_config.engine_config(
        config, batching, on_gpu=world.on_gpu, has_bf16=get_accelerator().is_bf16_supported(), run_dir=run
    )


def write_records(
    config: RunConfig, inputs: Inputs, settings: dict[str, Any], world: dist.World, run: Path
) -> None:
    """What the run is made with, for readers and for later runs that start from it."""
    index = inputs.index
    about = environment.describe(
        world, seed=config.seed, fingerprint=index.fingerprint, data=str(config.data.path)
    )
    if world.is_main:
        rundir.write_json(run / rundir.ENVIRONMENT, about)
        rundir.write_text(run / DEEPSPEED, json.dumps(settings, indent=2) + "\n")
        weights.keep_ids(run, index.item_ids())
