"""The fused diffusion operations beside PyTorch eager, torch.compile and diffusers (where installed).

    python -m bench.kernels [--device cuda|cpu] [--shapes S1 S5] [--rounds 20] [--out DIR]

For each operation, shape and dtype all contestants take turns in one process: warm, on buffers that rotate
beyond the last-level cache, median and spread of the rounds. `share of copy` compares an operation's bytes
per second (what it must read and write) with those of `copy_` at the same shape and dtype in the same rounds.
Before it is timed, each of ours is compared with the float64 reference. On CUDA a time is that of a replayed
graph, so that the host's part does not count; small shapes are also timed as called (`called`).

Writes DIR/kernels-DEVICE.csv (default bench/results) row by row, and compares with the goals at the end: on
the GPU at S1 and S2 .85 of copy in fp32, .80 in bf16, 3.3x eager (masked 4x; loss 3.7x), 1.2x torch.compile
in bf16 and 1x in fp32; S5 and S6 5x eager. On the CPU q_sample 1.8x eager and 5x torch.compile, DDIM no
slower than compiled.

Imports neither DeepSpeed nor WebDataset.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.report import Report, goal
from bench.timing import alternate
from mealrec import ops
from mealrec.ops import Counters, Sampler, Schedule, reference, tables

SCHEDULE = Schedule("linear", 10)
# B x L (x M) rows of D: S1 and S2 train on a GPU, S3 fits its cache, S4 and S5 are pooled videos, S6 is
# small.
SHAPES = {
    "S1": (1024 * 50 * 8, 512),
    "S2": (1024 * 13 * 8, 512),
    "S3": (256 * 10 * 8, 512),
    "S4": (1024 * 50, 512),
    "S5": (1024 * 13, 512),
    "S6": (256 * 10, 64),
    "odd": (1024 * 13, 509),
}
DEFAULT = {"cuda": list(SHAPES), "cpu": ["S3", "S5", "S6", "odd"]}
BEYOND_CACHE = {"cuda": 512 << 20, "cpu": 256 << 20}  # bytes of rotating buffers
MASKED = 0.4  # share of rows that are off in the masked operations

Call = Callable[[int], object]  # the work on the i-th set of buffers


@dataclass
class Case:
    """One operation at one shape and dtype: its contestants, and how much it must read and write."""

    operation: str
    moved_per_element: int  # reads and writes, in elements of the dtype
    calls: dict[str, Call]
    truth: Callable[[], torch.Tensor]


class Buffers:
    """Rotating inputs of one shape and dtype."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: str):
        rows, columns = shape
        one = rows * columns * torch.empty(0, dtype=dtype).element_size()
        self.count = max(2, min(16, -(-BEYOND_CACHE[device] // (3 * one))))
        make = torch.Generator(device).manual_seed(0)

        def some() -> torch.Tensor:
            return torch.randn(rows, columns, generator=make, device=device).to(dtype)

        self.x, self.y, self.z = ([some() for _ in range(self.count)] for _ in range(3))
        self.out = torch.empty_like(self.x[0])
        index = torch.arange(rows, device=device)
        seed, step = torch.tensor(7, device=device), torch.tensor(3, device=device)
        self.counters = Counters(seed, step, index // 400, index % 400)
        self.t = index % (SCHEDULE.steps - 1) + 1
        self.t_prev = self.t - 1
        self.mask = torch.rand(rows, generator=make, device=device) >= MASKED


def eager_q_sample(x, t, mask, signal, noise):
    x_t = signal[t + 1, None].to(x.dtype) * x + noise[t + 1, None].to(x.dtype) * torch.randn_like(x)
    return x_t if mask is None else x_t * mask[:, None]


def eager_reverse(x, x0, null, t, t_prev, abar, sampler):
    """The textbook form: what a reader of the papers writes."""
    now, prev = abar[t + 1, None].to(x.dtype), abar[t_prev + 1, None].to(x.dtype)
    if null is not None:
        x0 = (1 + sampler.guidance) * x0 - sampler.guidance * null
    if not sampler.ddpm:
        return prev.sqrt() * x0 + (1 - prev).sqrt() * (x - now.sqrt() * x0) / (1 - now).sqrt()
    alpha = now / prev
    beta = 1 - alpha
    mean = beta * prev.sqrt() / (1 - now) * x0 + (1 - prev) * alpha.sqrt() / (1 - now) * x
    return mean + (beta * (1 - prev) / (1 - now)).sqrt() * torch.randn_like(x)


def eager_loss(prediction, target, mask):
    """Loss and gradient, by autograd."""
    prediction = prediction.detach().requires_grad_()
    loss = ((prediction - target).square().float().mean(1) * mask).sum()
    return loss, torch.autograd.grad(loss, prediction)[0]


def cases(b: Buffers, device: str, compiled: bool) -> Iterator[Case]:
    """The operations with their contestants.

    Ours is called as the model calls it, without the checks of arguments, which a graph leaves out too.
    """
    table, counters, one = tables(SCHEDULE, torch.device(device)), b.counters, torch.ones((), device=device)
    fused, fields = torch.ops.mealrec, (counters.seed, counters.step, counters.sample_id, counters.row)

    def contest(ours: Call, eager: Callable, arguments: Callable[[int], tuple]) -> dict[str, Call]:
        calls = {"ours": ours, "eager": lambda i: eager(*arguments(i))}
        if compiled:
            torch._dynamo.reset()
            made = torch.compile(eager, dynamic=False)
            calls["torch.compile"] = lambda i: made(*arguments(i))
        return calls

    with_diffusers = importlib.util.find_spec("diffusers") is not None
    for name, mask in (("q_sample", None), ("q_sample masked", b.mask)):
        calls = contest(
            lambda i, mask=mask: fused.q_sample(
                b.x[i], None, b.t, table.signal, table.noise, mask, *fields, 1
            ),
            eager_q_sample,
            lambda i, mask=mask: (b.x[i], b.t, mask, table.signal, table.noise),
        )
        if mask is None and with_diffusers:
            calls["diffusers"] = diffusers_add_noise(b)
        yield Case(
            name,
            2,
            calls,
            lambda mask=mask: reference.q_sample(b.x[0].double(), b.t, SCHEDULE, counters, 1, mask, None),
        )
    yield Case(
        "q_sample, steps drawn",
        2,
        contest(
            lambda i: fused.q_sample_drawn(b.x[i], None, table.signal, table.noise, None, *fields, 1, 2, 1)[
                0
            ],
            lambda x: eager_q_sample(
                x,
                torch.randint(SCHEDULE.steps, (len(x),), device=x.device),
                None,
                table.signal,
                table.noise,
            ),
            lambda i: (b.x[i],),
        ),
        lambda: reference.corrupt(b.x[0].double(), SCHEDULE, counters, 1, 2, 1, None, None)[0],
    )
    for name, sampler in (
        ("ddim", Sampler("ddim")),
        ("ddpm", Sampler("ddpm")),
        ("ddpm guided", Sampler("ddpm", guidance=0.5)),
    ):
        guided = sampler.guidance > 0
        options = (table.abar, sampler.guidance, 0.0, sampler.ddpm, None, *fields, 1)
        calls = contest(
            lambda i, guided=guided, options=options: fused.reverse_step(
                b.x[i], b.y[i], b.z[i] if guided else None, b.t, b.t_prev, *options
            ),
            eager_reverse,
            lambda i, guided=guided, sampler=sampler: (
                b.x[i],
                b.y[i],
                b.z[i] if guided else None,
                b.t,
                b.t_prev,
                table.abar,
                sampler,
            ),
        )
        if name == "ddpm" and with_diffusers:
            calls["diffusers"] = diffusers_step(b)
        yield Case(
            name,
            4 if guided else 3,
            calls,
            lambda guided=guided, sampler=sampler: reference.reverse_step(
                b.x[0].double(),
                b.y[0].double(),
                b.t,
                b.t_prev,
                SCHEDULE,
                counters,
                1,
                sampler,
                b.z[0].double() if guided else None,
                None,
            ),
        )
    yield Case(
        "loss and gradient",
        5,
        contest(
            lambda i: [
                fused.diffusion_loss(b.x[i], b.y[i], None, b.mask),
                fused.diffusion_loss_gradient(b.x[i], b.y[i], None, b.mask, one),
            ][1],
            eager_loss,
            lambda i: (b.x[i], b.y[i], b.mask),
        ),
        lambda: 2 * (b.x[0].double() - b.y[0].double()) * b.mask[:, None] / b.x[0].shape[1],
    )
    yield Case(
        "dropout and residual",
        3,
        contest(
            lambda i: fused.dropout(b.x[i], b.y[i], 0.2, *fields, 64),
            lambda x, r: r + torch.nn.functional.dropout(x, 0.2, True),
            lambda i: (b.x[i], b.y[i]),
        ),
        lambda: reference.dropout(b.x[0].double(), 0.2, counters, 64, b.y[0].double()),
    )


def diffusers_scheduler() -> Any:
    """Their DDPMScheduler with our schedule."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        SCHEDULE.steps, SCHEDULE.beta_start, SCHEDULE.beta_end, prediction_type="sample", clip_sample=False
    )


def diffusers_add_noise(b: Buffers) -> Call:
    """Their corruption, which takes noise drawn before."""
    scheduler = diffusers_scheduler()
    return lambda i: scheduler.add_noise(b.x[i], torch.randn_like(b.x[i]), b.t)


def diffusers_step(b: Buffers) -> Call:
    """Their reverse step, which takes one timestep per call."""
    scheduler = diffusers_scheduler()
    return lambda i: scheduler.step(b.y[i], 5, b.x[i]).prev_sample


def check_result(case: Case, dtype: torch.dtype, device: str) -> None:
    result, truth = case.calls["ours"](0).double(), case.truth()
    error = (result - truth).abs() / (1 + truth.abs())
    limit = 1e-2 if dtype == torch.bfloat16 else 2e-3 if device == "cuda" else 1e-4
    if not bool((error < limit).all()):
        sys.exit(
            f"{case.operation}, {dtype}: {float(error.max()):.2e} off the float64 reference, limit {limit}"
        )


def timers(calls: dict[str, Call], count: int, device: str, graph: bool) -> dict[str, Callable[[], float]]:
    """By name, a function that returns seconds of one call, averaged over one turn through all buffers."""
    if device == "cpu":

        def turn(call: Call) -> float:
            begin = time.process_time()
            for i in range(count):
                call(i)
            return (time.process_time() - begin) / count

        return {name: lambda call=call: turn(call) for name, call in calls.items()}

    def timed(run: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count

    runs = {}
    for name, call in calls.items():

        def whole(call: Call = call) -> None:
            for i in range(count):
                call(i)

        if graph and name != "diffusers":  # it reads its timestep, which a graph cannot do
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                whole()
            torch.cuda.current_stream().wait_stream(side)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                whole()
            runs[name] = lambda captured=captured: timed(captured.replay)
        else:
            runs[name] = lambda whole=whole: timed(whole)
    return runs


def measure(
    shape_name: str, dtype: torch.dtype, device: str, rounds: int, compiled: bool
) -> Iterator[dict[str, object]]:
    """Rows of the table, one per contestant."""
    b = Buffers(SHAPES[shape_name], dtype, device)
    elements, size = b.x[0].numel(), b.x[0].element_size()
    for case in cases(b, device, compiled):
        check_result(case, dtype, device)
        calls = {"copy": lambda i: b.out.copy_(b.x[i]), **case.calls}
        ways = [("graph", True)] if device == "cuda" else [("called", False)]
        if device == "cuda" and elements < 1 << 23:
            ways.append(("called", False))
        for way, graph in ways:
            times = alternate(timers(calls, b.count, device, graph), rounds)
            middle = {name: statistics.median(values) for name, values in times.items()}
            copy = 2 * elements * size / middle["copy"]
            for name, values in times.items():
                moved = 2 if name == "copy" else case.moved_per_element
                yield {
                    "operation": case.operation,
                    "shape": shape_name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "way": way,
                    "contestant": name,
                    "microseconds": round(middle[name] * 1e6, 2),
                    "spread": round((max(values) - min(values)) / middle[name], 3),
                    "share of copy": round(moved * elements * size / middle[name] / copy, 3),
                    "times ours": round(middle[name] / middle["ours"], 2),
                }


def goals(rows: list[dict[str, object]], device: str) -> list[str]:
    """One line per goal: reached or not, with the worst figure that decides it."""
    if device == "cpu":
        wanted = [
            ("q_sample", "eager", None, 1.8, ("S3", "S5")),
            ("q_sample", "torch.compile", None, 5.0, ("S3", "S5")),
            ("ddim", "torch.compile", None, 1.0, ("S3", "S5")),
        ]
    else:
        big, small = ("S1", "S2"), ("S5", "S6")
        wanted = [
            *((name, "eager", None, 3.3, big) for name in ("q_sample", "ddim", "ddpm", "ddpm guided")),
            ("q_sample masked", "eager", None, 4.0, big),
            ("loss and gradient", "eager", None, 3.7, big),
            ("ddpm", "diffusers", None, 6.0, big),
            *((name, "torch.compile", "bfloat16", 1.2, big) for name in ("q_sample", "ddpm")),
            *((name, "torch.compile", "float32", 1.0, big) for name in ("q_sample", "ddpm", "ddim")),
            *((name, "eager", None, 5.0, small) for name in ("q_sample", "ddpm")),
        ]
    lines = []
    for operation, peer, dtype, least, shapes in wanted:
        values = [
            row["times ours"]
            for row in rows
            if (row["operation"], row["contestant"]) == (operation, peer)
            and row["shape"] in shapes
            and dtype in (None, row["dtype"])
        ]
        what = f"{operation} against {peer}{f', {dtype}' if dtype else ''}, {'/'.join(shapes)}"
        lines.append(goal(what, min(values, default=None), least=least))
    if device == "cuda":
        for dtype, least in (("float32", 0.85), ("bfloat16", 0.80)):
            values = [
                row["share of copy"]
                for row in rows
                if row["contestant"] == "ours" and row["dtype"] == dtype and row["shape"] in ("S1", "S2")
                if row["operation"] in ("q_sample", "ddim", "ddpm", "ddpm guided", "loss and gradient")
            ]
            lines.append(
                goal(f"all operations against copy, {dtype}, S1/S2", min(values, default=None), least=least)
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, help="default: all on a GPU, the smaller on a CPU"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contestant (default: 20)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    ops.ready(device, torch.device(device))  # by name: without it there is nothing to measure
    on = torch.cuda.get_device_name() if device == "cuda" else None
    report = Report(arguments.out / f"kernels-{device}.csv", on)
    for shape in arguments.shapes or DEFAULT[device]:
        for dtype in arguments.dtypes:
            kind = getattr(torch, dtype)
            for row in measure(shape, kind, device, arguments.rounds, not arguments.no_compile):
                report.add(**row)
            if device == "cuda":
                torch.cuda.empty_cache()
    rows = report.rows
    lines = goals(rows, device)
    reached, missed = (sum(line.startswith(word) for line in lines) for word in ("reached", "MISSED"))
    summary = f"goals: {reached} of {len(lines)} reached, {missed} missed"
    report.close(*lines, summary)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
