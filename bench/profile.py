"""Where the time of a training step or an evaluation goes, by operator.

    python -m bench.profile train|evaluate [--data DIR --preset microlens] [-- OPTIONS]

torch.profiler over some steps or batches on one thread, as a run does them: each operator's own time, without
what it calls, its share and its calls. Arithmetic makes numbers of numbers; other operators move them (views,
copies, new buffers, indices). `Python and waiting` is time in no operator. The profiler takes wall time, so
where cores are shared the shares count, and not the milliseconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench import race
from bench.command import run_command
from bench.contestants import ours
from bench.report import Report
from trainer import cpu, prepare
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.run import single_world
from trainer.inputs import Inputs

WARM_UP, STEPS, ROWS = 5, 20, 25
MOVES = [
    "aten::copy_",
    "aten::to",
    "aten::_to_copy",
    "aten::clone",
    "aten::contiguous",
    "aten::empty",
    "aten::empty_like",
    "aten::zeros",
    "aten::zero_",
    "aten::fill_",
    "aten::zeros_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_zeros",
    "aten::index",
    "aten::index_select",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::index_copy",
    "aten::index_copy_",
    "aten::gather",
    "aten::scatter_",
    "aten::nonzero",
    "aten::cat",
    "aten::stack",
    "aten::view",
    "aten::reshape",
    "aten::transpose",
    "aten::permute",
    "aten::expand",
    "aten::slice",
    "aten::select",
    "aten::as_strided",
    "aten::detach",
    "aten::unsqueeze",
    "aten::t",
    "aten::split",
    "aten::unbind",
    "aten::flatten",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::masked_fill_",
    "aten::arange",
    "aten::resize_",
    "aten::narrow",
    "aten::alias",
    "aten::detach_",
    "aten::_unsafe_view",
    "aten::squeeze",
    "aten::lift_fresh",
]


def main() -> None:
    """Profile, print and write the table."""
    parser = race.arguments("profile", __doc__, rounds=1, seconds=0)
    parser.add_argument("task", choices=("train", "evaluate"))
    settings, options = race.parse(parser)
    cpu.settle()  # as every process of a run does
    torch.set_num_threads(1)
    config = race.config_of(options)
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    work = {"train": training, "evaluate": evaluation}[settings.task](config, batching)
    for _ in range(WARM_UP):
        work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        for _ in range(STEPS):
            work()
        seconds = time.perf_counter() - begin
    # Ranges such as autograd's nodes count only what no operator inside them does.
    operators = sorted(profiler.key_averages(), key=lambda each: -each.self_cpu_time_total)
    path = settings.out.with_name(settings.out.name.replace("profile-", f"profile-{settings.task}-"))
    report = Report(path)
    for each in operators[:ROWS]:
        add(report, each.key, each.self_cpu_time_total / 1e6, seconds, each.count)
    inside = {kind: 0.0 for kind in ("arithmetic", "moving", "bookkeeping of autograd and optimiser")}
    for each in operators:
        inside[kind_of(each.key)] += each.self_cpu_time_total / 1e6
    for kind, own in inside.items():
        add(report, f"all {kind}", own, seconds, 0)
    add(report, "Python and waiting", seconds - sum(inside.values()), seconds, 0)
    report.close()


def add(report: Report, name: str, own: float, seconds: float, calls: int) -> None:
    """A row of the table, for each step."""
    report.add(
        operator=name,
        **{"own ms/step": own * 1e3 / STEPS, "share": own / seconds, "calls/step": round(calls / STEPS)},
    )


def kind_of(name: str) -> str:
    """What an event of the profiler is."""
    if name in MOVES:
        return "moving"
    return (
        "arithmetic" if "::" in name and "autograd" not in name else "bookkeeping of autograd and optimiser"
    )


def training(config: Any, batching: Any) -> Callable[[], object]:
    """A step of a run, at each call the next one."""
    from trainer import distributed

    ours.choose_port()
    inputs = Inputs(config.data, config.model, distributed.init(), config.seed)
    stream, step = inputs.train_stream(batching), ours.deepspeed_step(config, batching, inputs)
    batches = itertools.chain.from_iterable(map(stream.epoch, itertools.count()))
    return lambda: step(next(batches), 0, 0)


def evaluation(config: Any, batching: Any) -> Callable[[], object]:
    """A batch of an evaluation, at each call the next one."""
    inputs = Inputs(config.data, config.model, single_world(), config.seed)
    model, stream = inputs.build_model(), inputs.eval_stream("test", config.eval)
    batches = itertools.chain.from_iterable(itertools.repeat(stream))
    steps = config.eval.test_sampler_steps
    return lambda: evaluate(model, [next(batches)], inputs, config.eval, steps)


if __name__ == "__main__":
    run_command(main)
