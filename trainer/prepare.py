"""Prepares a run: checks configuration and data, then names, locks and fills the run directory.

The operator prepares a run before it starts the ranks; where `deepspeed` itself started them, rank 0 does.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from trainer import ds_config, files, options, run_directory, trackers
from trainer.batching import Batching
from trainer.config import RunConfig
from trainer.default_data import make_default_data
from trainer.errors import EchoedError, UserError, line_of

if TYPE_CHECKING:
    from shards import Index

T = TypeVar("T")

SHARED_WITHIN = 10.0
"""Seconds after which a file that one host has written must be visible on the others: NFS takes its time."""
# A run keeps these for its life: with another value, its checkpoint would not be a state of the run.
_KEPT = ("seed", "data.max_length", "data.window_stride", "data.shuffle_window", "train.batch_size")
# The smallest value of each option whose type alone does not say it.
_LEAST = {
    "seed": 0,
    "max_restarts": 0,
    "run.host_timeout": 0,
    "run.stall_timeout": 0,
    "train.max_epochs": 1,
    "train.nonfinite_budget": 0,
    "train.log_every": 1,
    "train.keep_checkpoints": 1,
    "data.max_length": 1,
    "data.shuffle_window": 1,
    "eval.batch_size": 1,
    "train.table_lr": 0,
    "train.weight_decay": 0,
    "train.table_decay": 0,
    "train.ema": 0,
    "train.warmup_steps": 0,
    "train.clip_norm": 0,
    "train.save_every_steps": 0,
    "train.patience": 0,
    "data.window_stride": 0,
    "data.workers": 0,
    "data.max_bad_shards": 0,
    "eval.every_steps": 0,
    "eval.valid_sampler_steps": 0,
    "eval.test_sampler_steps": 0,
    "eval.chunk": 0,
}


@dataclass
class PreparedRun:
    """A run that is ready to start.

    `lock` is held by this process until it is released or the process ends. `finished`: the run that was to
    be resumed has ended already; there is nothing to start.
    """

    run_dir: Path
    config: RunConfig
    lock: run_directory.RunLock
    batching: Batching
    finished: bool = False


def prepare(config: RunConfig, *, world_size: int, on_gpu: bool) -> PreparedRun:
    """Check the configuration and the data, then name, lock and fill the run directory.

    `config` is completed in place with what the data set decides (`model.videos` ...) and the directories'
    absolute paths.

    Raises:
        UserError, shards.DataError, mealrec.ConfigError: with one clear line, before anything is started.
            An existing run is left as it is.
    """
    if config.resume and config.run.dir and run_directory.is_finished(config.run.dir):
        lock = run_directory.claim(config.run.dir, resume=True)
        batching = ds_config.settle_batching(config, world_size, on_gpu=on_gpu)
        return PreparedRun(Path(config.run.dir), config, lock, batching, finished=True)
    index, batching = check_run(config, world_size=world_size, on_gpu=on_gpu)
    run_dir = (
        Path(config.run.dir).absolute()
        if config.run.dir
        else run_directory.new_name(config.preset).absolute()
    )
    lock = run_directory.claim(run_dir, resume=config.resume)
    try:
        if config.resume:
            _check_resume(config, index, run_dir)
        config.run.dir = str(run_dir)
        config.num_gpus = world_size
        options.save_run(run_dir, config)
    except BaseException:
        lock.release()
        raise
    return PreparedRun(run_dir, config, lock, batching)


class Broadcast(Protocol):
    """A function that returns rank 0's value on every rank."""

    def __call__(self, value: T, /) -> T:
        """Return rank 0's value; every rank calls this."""


def join(
    asked: RunConfig, *, is_main: bool, world_size: int, on_gpu: bool, broadcast: Broadcast
) -> tuple[RunConfig, run_directory.RunLock | None]:
    """Return the run that each rank works in, and on rank 0 a lock to hold while it lives.

    Every rank calls this once ranks can communicate. The run is the one that the operator prepared; with no
    operator rank 0 prepares it here from what was `asked`. `config.run.dir` is set, and `config.resume` is as
    rank 0 was asked: a rank that a scheduler starts later may have seen a run directory that rank 0 has just
    made.

    Raises:
        UserError, shards.DataError, mealrec.ConfigError: as `prepare`, on rank 0.
        EchoedError: with the same line, on the others.
    """
    run_dir = os.environ.get(run_directory.RUN_VARIABLE)
    lock: run_directory.RunLock | None = None
    error: Exception | None = None
    failure: str | None = None
    if is_main:
        try:
            if run_dir is None:
                prepared = prepare(asked, world_size=world_size, on_gpu=on_gpu)
                run_dir, lock = str(prepared.run_dir), prepared.lock
            else:
                lock = run_directory.rank_lock(run_dir)
        except Exception as caught:
            error, failure = caught, line_of(caught)
    run_dir, resume, failure = broadcast((run_dir, asked.resume, failure))
    if error is not None:
        raise error
    if failure is not None or run_dir is None:
        raise EchoedError(failure)
    config = _shared_config(Path(run_dir))
    config.run.dir, config.resume = run_dir, resume
    return config, lock


def check_run(config: RunConfig, *, world_size: int, on_gpu: bool) -> tuple[Index, Batching]:
    """Run all checks that need no run directory; complete `config` with what the data set decides.

    Raises:
        UserError, shards.DataError, mealrec.ConfigError: as `prepare`.
    """
    from shards import Index

    _check_values(config)
    trackers.check(config.train.track)
    batching = ds_config.settle_batching(config, world_size, on_gpu=on_gpu)
    ds_config.engine_config(config, batching, on_gpu=on_gpu, has_bf16=on_gpu, run_dir=None)
    config.train.batch_size = batching.batch_size
    if config.init_from and not (Path(config.init_from) / run_directory.CONFIG).is_file():
        raise UserError(f"--init_from: {config.init_from} holds no run: no {run_directory.CONFIG} there")
    index = Index.load(settle_paths(config))
    model = config.model
    model.videos, model.frames, model.width = index.videos, index.frames, index.width
    model.max_length = config.data.max_length
    model.validate()
    epoch_samples(index, config)
    return index, batching


def settle_paths(config: RunConfig) -> str:
    """Make every path absolute, so that a run can be continued from any directory.

    Where no data set is named, the default one is made and taken. Returns the data set's path.
    """
    if config.data.path is None:
        config.data.path = str(make_default_data())
    for name in ("data.path", "data.cache_dir", "init_from", "deepspeed_config"):
        path = options.get(config, name)
        if path is not None and "://" not in path and not path.startswith("pipe:"):
            options.put(config, name, str(Path(path).absolute()))
    return config.data.path


def epoch_samples(index: Index, config: RunConfig) -> int:
    """Return the training samples of an epoch.

    Raises:
        UserError: the window arithmetic does not hold.
        shards.DataError: there is nothing to train on.
    """
    from shards import DataError, training_samples

    max_length, stride = config.data.max_length, config.data.window_stride
    try:
        return training_samples(index, max_length, stride)
    except DataError:
        raise
    except ValueError as error:
        raise UserError(f"--data.max_length {max_length}, --data.window_stride {stride}: {error}") from None


def _shared_config(run_dir: Path) -> RunConfig:
    """The run's configuration as this rank sees it. Raises UserError on a host that does not see the run."""
    path = run_dir / run_directory.CONFIG
    deadline = time.monotonic() + SHARED_WITHIN
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"{run_dir} is not visible on {socket.gethostname()}: --run must be where all hosts share it"
            )
        time.sleep(0.2)
    return options.load_run(run_dir)


def _check_values(config: RunConfig) -> None:
    for name, least in _LEAST.items():
        value = options.get(config, name)
        if value < least:
            raise UserError(f"--{name} must be at least {least}, not {value}")
    if config.seed >= 2**32:
        raise UserError(f"--seed must be below 2^32, not {config.seed}")
    if config.train.lr <= 0:
        raise UserError(f"--train.lr must be above 0, not {config.train.lr}")
    if config.train.ema >= 1:
        raise UserError(f"--train.ema must be below 1, not {config.train.ema}")


def _check_resume(config: RunConfig, index: Index, run_dir: Path) -> None:
    """Raise UserError where the run was made on other data or with another model.

    A run that ended before its ranks wrote the environment file has trained nothing that could differ.
    """
    made_on = _made_on(run_dir / run_directory.ENVIRONMENT)
    if made_on is not None and made_on["fingerprint"] != index.fingerprint:
        raise UserError(
            f"--resume: {run_dir} was made on {made_on['data']} ({made_on['fingerprint'][:19]}...):"
            f" {index.path} has other content ({index.fingerprint[:19]}...)"
        )
    before = options.load(run_dir / run_directory.CONFIG)
    for leaf in options.leaves(RunConfig):
        if leaf.name in _KEPT or leaf.name.startswith("model."):
            old, new = options.get(before, leaf.name), options.get(config, leaf.name)
            if old != new:
                raise UserError(
                    f"--resume: {leaf.option} is {old} in {run_dir}, not {new}: a run keeps it for its life"
                )


def _made_on(environment: Path) -> dict[str, str] | None:
    """The data of a run; None where it is not known. A damaged file is set aside: checkpoints say it, too."""
    if not environment.is_file():
        return None
    try:
        about = files.read_json(environment)
        return {name: str(about[name]) for name in ("data", "fingerprint")}
    except (UserError, KeyError, TypeError):
        aside = files.set_aside(environment)
        print(f"warning: {environment} is damaged; kept as {aside.name}", file=sys.stderr, flush=True)
        return None
