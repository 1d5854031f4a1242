"""The operator: checks what can be checked, makes data and run directory, starts the ranks and sees them end.

`prepare` is also what rank 0 calls where the ranks were started by `deepspeed` itself, with no operator.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import ds_config, estimate, machine, options, rundir
from trainer.batching import Batching
from trainer.config import RunConfig
from trainer.errors import DONE, FAILED, MISTAKE, EchoedError, UserError, line_of, report

if TYPE_CHECKING:
    from shards import Index

DEFAULT_DATA = Path("data/default")
SHARED_WITHIN = 10.0  # seconds after which a file of one host must be seen on the others: NFS takes its time
# What a run keeps for its life: with another value, its checkpoint would not be a state of the run.
_KEPT = ("seed", "data.max_length", "data.window_stride", "data.shuffle_window", "train.batch_size")


@dataclass
class Prepared:
    """A run that is ready to start. `lock` is held by this process until it is released or the process ends.

    `finished`: the run that was to be resumed has come to its end already; there is nothing to start.
    """

    run_dir: Path
    config: RunConfig
    lock: rundir.RunLock
    batching: Batching
    finished: bool = False


def prepare(config: RunConfig, *, world: int, on_gpu: bool) -> Prepared:
    """Check the configuration and the data, name, lock and fill the run directory.

    `config` is completed in place with what the data set says (`model.videos` ...) and the directories'
    absolute paths.

    Raises:
        UserError, shards.DataError, mealrec.ConfigError: with one clear line, before anything is started.
            Nothing of a run that is there already is touched.
    """
    if config.resume and config.run.dir and rundir.is_finished(config.run.dir):
        lock = rundir.claim(config.run.dir, resume=True)
        batching = ds_config.settle_batching(config, world, on_gpu=on_gpu)
        return Prepared(Path(config.run.dir), config, lock, batching, finished=True)
    index, batching = check(config, world=world, on_gpu=on_gpu)
    run_dir = Path(config.run.dir).absolute() if config.run.dir else rundir.new_name(config.preset).absolute()
    lock = rundir.claim(run_dir, resume=config.resume)
    try:
        if config.resume:
            _check_resume(config, index, run_dir)
        config.run.dir = str(run_dir)
        config.num_gpus = world
        rundir.write_text(run_dir / rundir.CONFIG, options.dump(config))
    except BaseException:
        lock.release()
        raise
    return Prepared(run_dir, config, lock, batching)


def join(
    asked: RunConfig, *, is_main: bool, world: int, on_gpu: bool, broadcast: Callable[[Any], Any]
) -> tuple[RunConfig, rundir.RunLock | None]:
    """For each rank, once ranks can talk: the run to work in, and on rank 0 a lock to hold while it lives.

    The run is the one that the operator prepared; with no operator rank 0 prepares it here from what was
    `asked`. `config.run.dir` is set, and `config.resume` is as rank 0 was asked: a rank that a scheduler
    starts later may have seen a run directory that rank 0 has just made. `broadcast(value)` returns rank 0's
    value on every rank.

    Raises:
        As `prepare`, on rank 0; an EchoedError with the same line on the others.
    """
    run_dir = os.environ.get(rundir.RUN_VARIABLE)
    lock, error, failure = None, None, None
    if is_main:
        try:
            if run_dir is None:
                prepared = prepare(asked, world=world, on_gpu=on_gpu)
                run_dir, lock = str(prepared.run_dir), prepared.lock
            else:
                lock = rundir.worker_lock(run_dir)
        except Exception as caught:
            error, failure = caught, line_of(caught)
    run_dir, resume, failure = broadcast((run_dir, asked.resume, failure))
    if error is not None:
        raise error
    if failure is not None:
        raise EchoedError(failure)
    config = _shared_config(Path(run_dir))
    config.run.dir, config.resume = run_dir, resume
    return config, lock


def _shared_config(run_dir: Path) -> RunConfig:
    """The run's configuration as this rank sees it. Raises UserError on a host that does not see the run."""
    path = run_dir / rundir.CONFIG
    deadline = time.monotonic() + SHARED_WITHIN
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"{run_dir} is not seen on {socket.gethostname()}: --run must lie where all hosts share it"
            )
        time.sleep(0.2)
    return options.load(path)


def check(config: RunConfig, *, world: int, on_gpu: bool) -> tuple[Index, Batching]:
    """All checks that need no run directory; completes `config` with what the data set says.

    Raises:
        As `prepare`.
    """
    from shards import Index

    _check_values(config)
    batching = ds_config.settle_batching(config, world, on_gpu=on_gpu)
    ds_config.engine_config(config, batching, on_gpu=on_gpu, has_bf16=on_gpu, run_dir=None)
    config.train.batch_size = batching.batch_size
    if config.init_from and not (Path(config.init_from) / rundir.CONFIG).is_file():
        raise UserError(f"--init_from: {config.init_from} holds no run: no {rundir.CONFIG} there")
    _settle_data(config)
    index = Index.load(config.data.path)
    model = config.model
    model.videos, model.frames, model.width = index.videos, index.frames, index.width
    model.max_length = config.data.max_length
    model.check()
    estimate.epoch_samples(index, config.data.max_length, config.data.window_stride)
    return index, batching


def _settle_data(config: RunConfig) -> None:
    """Make the default data where none are named; paths become absolute, so that a run is continued and
    evaluated from any directory.
    """
    if config.data.path is None:
        make_default_data(DEFAULT_DATA)
        config.data.path = str(DEFAULT_DATA)
    for name in ("data.path", "data.cache_dir", "init_from", "deepspeed_config"):
        path = options.get(config, name)
        if path is not None and "://" not in path and not path.startswith("pipe:"):
            options.put(config, name, str(Path(path).absolute()))


def _check_values(config: RunConfig) -> None:
    train, data, evaluation = config.train, config.data, config.eval
    least: dict[str, tuple[float, float]] = {
        "seed": (config.seed, 0),
        "train.max_epochs": (train.max_epochs, 1),
        "train.log_every": (train.log_every, 1),
        "train.keep_checkpoints": (train.keep_checkpoints, 1),
        "data.max_length": (data.max_length, 1),
        "data.shuffle_window": (data.shuffle_window, 1),
        "eval.batch_size": (evaluation.batch_size, 1),
    }
    for group, names in {
        "train": ("weight_decay", "warmup_steps", "clip_norm", "save_every_steps", "patience"),
        "data": ("window_stride", "workers"),
        "eval": ("every_steps", "valid_sampler_steps", "test_sampler_steps", "chunk"),
    }.items():
        least |= {f"{group}.{name}": (getattr(getattr(config, group), name), 0) for name in names}
    for name, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"--{name} must be at least {bound}, not {value}")
    if config.seed >= 2**32:
        raise UserError(f"--seed must be below 2^32, not {config.seed}")
    if train.lr <= 0:
        raise UserError(f"--train.lr must be above 0, not {train.lr}")


def make_default_data(path: Path) -> None:
    """Make the synthetic world at `path`, once; a second start waits for the first."""
    if path.exists():
        return
    from shards.synth import synthesise

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.parent / f".{path.name}.lock", "w")  # noqa: SIM115 - held to the end of the block below
    except OSError as error:
        raise UserError(f"the default data set cannot be written to {path}: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            print(f"making the default data set, a synthetic world, in {path}", flush=True)
            synthesise(path)


def _check_resume(config: RunConfig, index: Index, run_dir: Path) -> None:
    """Raises UserError where the run was made on other data or with another model.

    A run that ended before its ranks wrote the environment file has trained nothing that could differ.
    """
    environment = run_dir / rundir.ENVIRONMENT
    if environment.is_file():
        made_on = rundir.read_json(environment)
        if made_on["fingerprint"] != index.fingerprint:
            raise UserError(
                f"--resume: {run_dir} was made on {made_on['data']} ({made_on['fingerprint'][:19]}...):"
                f" {index.path} has other content ({index.fingerprint[:19]}...)"
            )
    before = options.load(run_dir / rundir.CONFIG)
    for leaf in options.leaves(RunConfig):
        if leaf.name in _KEPT or leaf.name.startswith("model."):
            old, new = options.get(before, leaf.name), options.get(config, leaf.name)
            if old != new:
                raise UserError(
                    f"--resume: {leaf.option} is {old} in {run_dir}, not {new}: a run keeps it for its life"
                )


def dry_run(config: RunConfig, *, world: int, on_gpu: bool) -> None:
    """Print the resolved configuration, batch arithmetic, steps and estimated memory; train nothing."""
    index, batching = check(config, world=world, on_gpu=on_gpu)
    if config.run.dir and not config.resume and (Path(config.run.dir) / rundir.CONFIG).exists():
        raise UserError(
            f"{config.run.dir} holds a run already: continue it with --resume, or name another --run"
        )
    engine = ds_config.engine_config(config, batching, on_gpu=on_gpu, has_bf16=on_gpu, run_dir=None)
    samples = estimate.epoch_samples(index, config.data.max_length, config.data.window_stride)
    steps = -(-samples // batching.batch_size)
    count = estimate.parameters(config.model)
    print(options.dump(config))
    print(
        f"data            {index.users} users, {index.videos} videos,"
        f" {index.frames} frames of width {index.width}"
    )
    print(f"ranks           {world} on {'GPUs' if on_gpu else 'the CPU'}")
    print(f"arithmetic      {batching}")
    print(f"steps           {steps} an epoch ({samples} samples), {steps * config.train.max_epochs} at most")
    print(f"model           {count} parameters")
    for line in estimate.memory(config, engine, batching, index, count).lines():
        print(line)


def main(words: Sequence[str]) -> int:
    """Run the operator. Returns the exit code."""
    config = options.parse(words)
    place = _place(config)
    if config.dry_run:
        dry_run(config, world=place.world, on_gpu=place.on_gpu)
        return DONE
    prepared = prepare(config, world=place.world, on_gpu=place.on_gpu)
    run_dir = prepared.run_dir
    if prepared.finished:
        print(f"{run_dir} is finished: its results are in {run_dir / rundir.RESULTS}")
        return DONE
    shown = os.path.relpath(run_dir) if run_dir.is_relative_to(Path.cwd()) else str(run_dir)
    print(f"run {shown}: {prepared.batching}", flush=True)
    return _supervise(words, prepared, place, shown=shlex.quote(shown))


@dataclass(frozen=True)
class Place:
    """Where the ranks will be; `port` is rank 0's on the hosts of a host file, and None on this machine."""

    world: int
    on_gpu: bool
    port: int | None = None


def _place(config: RunConfig) -> Place:
    """Raises UserError where this machine, or a host of the host file, cannot take its ranks."""
    if config.hostfile is None:
        found = machine.gpus()
        return Place(machine.ranks(config.num_gpus, len(found)), bool(found))
    from trainer.hosts import check, hostfile

    pool = hostfile.read(config.hostfile)
    _settle_data(config)
    found = check.check(pool, config.data.path)
    return Place(sum(host.slots for host in pool), found.on_gpu, found.port)


def _supervise(words: Sequence[str], prepared: Prepared, place: Place, *, shown: str) -> int:
    """Start the ranks, see them end, and say in one line what went wrong. Returns the exit code."""
    from trainer import launcher
    from trainer.hosts import launch

    again = f"continue with ./launch.sh --run {shown} --resume"
    rundir.take_mistake(prepared.run_dir)
    try:
        where = {"on_gpu": place.on_gpu, "run_dir": prepared.run_dir}
        if place.port is None:
            code = launcher.run(words, ranks=place.world, **where)
        else:
            where |= {"hostfile": prepared.config.hostfile, "timeout": prepared.config.run.host_timeout}
            code = launch.run(words, port=place.port, **where)
    except launcher.Stopped as stopped:
        print(f"stopped by {stopped.name}; {again}", file=sys.stderr)
        return FAILED
    mistake = rundir.take_mistake(prepared.run_dir)
    if mistake is not None:
        return report(UserError(mistake))
    if code == MISTAKE:
        return MISTAKE  # the rank could not leave its line and has printed it
    if code == 0 and rundir.is_finished(prepared.run_dir):
        return DONE
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    print(f"error: the ranks ended ({how}) before the run was finished, see above; {again}", file=sys.stderr)
    return FAILED
