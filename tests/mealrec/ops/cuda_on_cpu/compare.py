"""The CUDA kernels on the CPU against the reference in float64, on cases drawn at random.

    python -m tests.mealrec.ops.cuda_on_cpu.compare LIBRARY OPERATION CASES [--first N]

ends with exit code 1 and the case at the first difference.
"""

import argparse
import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mealrec import ops
from mealrec.ops import Counters, Sampler, Schedule
from tests.mealrec.ops.cuda_on_cpu.library import ORDERS, Library

WIDTHS = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    12,
    16,
    24,
    31,
    32,
    33,
    63,
    64,
    65,
    72,
    100,
    127,
    128,
    130,
    256,
    257,
    504,
    512,
    520,
)
WIDE = (1000, 1024, 2048, 4096, 8192, 8200)
ROWS = (1, 2, 3, 5, 7, 8, 31, 32, 33, 37, 64, 65, 127, 255, 256, 257, 300, 513, 4100)
LARGEST = 1 << 15
SCHEDULES = (
    Schedule("linear", 10),
    Schedule("linear", 1),
    Schedule("linear", 1000, 1e-4, 2e-2),
    Schedule("cosine", 32),
    Schedule("cosine", 1000),
    Schedule("sqrt", 20),
)
EDGES = (0, 11, 2**31 - 1, 2**31, 2**32 - 1)
# Rounding of what is stored, and what a noise adds where approximations are exact and where they are off.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
NOISE = {False: 2e-4, True: 1.6e-3}
# Of the coefficients of a reverse step.
COEFFICIENTS = 5e-5


@dataclass(frozen=True)
class Case:
    """Shape, dtype and fields of an operation's rows; `draw` decides all else."""

    draw: random.Random = field(repr=False)
    rows: int
    columns: int
    dtype: torch.dtype
    counters: Counters = field(repr=False)
    mask: torch.Tensor | None = field(repr=False)
    schedule: Schedule
    order: str
    rounding: bool

    def tensor(self):
        """A leaf [rows, columns] in one of several memory layouts."""
        layout = self.draw.choice(
            ("dense", "dense", "padded", "shifted", "unaligned", "every second", "one row")
        )
        extra = self.draw.choice((1, 2, 3, 4, 8))
        rows, columns = self.rows, self.columns
        if layout == "dense":
            x = self._normal(rows, columns)
        elif layout == "padded":
            x = self._normal(rows, columns + extra)[:, :columns]
        elif layout == "shifted":
            x = self._normal(rows, columns + extra)[:, extra:]
        elif layout == "unaligned":
            x = self._normal(rows * columns + extra)[extra:].view(rows, columns)
        elif layout == "every second":
            x = self._normal(2 * rows, columns)[::2]
        else:
            x = self._normal(1, columns).expand(rows, columns)
        return x.requires_grad_()

    def source(self):
        """Rows, and the index into them that makes [rows, columns], or rows as they are and none."""
        if self.draw.random() < 0.5:
            return self.tensor(), None
        count = self.draw.choice((1, 2, self.rows, 2 * self.rows))
        return replace(self, rows=count).tensor(), torch.randint(0, count, (self.rows,))

    def steps(self):
        return torch.randint(0, self.schedule.steps, (self.rows,))

    def stream(self):
        return self.draw.choice((1, 64, 2**31, 2**32 - 1))

    def _normal(self, *shape):
        return torch.randn(*shape).to(self.dtype)


def draw_case(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    columns = draw.choice(WIDTHS if draw.random() < 0.8 else WIDE)
    rows = max(1, min(draw.choice(ROWS), LARGEST // columns))
    mask = draw.choice((None, None, torch.rand(rows) < 0.6, torch.ones(rows) > 0, torch.zeros(rows) > 0))
    return Case(
        draw=draw,
        rows=rows,
        columns=columns,
        dtype=draw.choice((torch.float32, torch.bfloat16)),
        counters=draw_counters(draw, rows),
        mask=mask,
        schedule=draw.choice(SCHEDULES),
        order=draw.choice(ORDERS),
        rounding=draw.random() < 0.3,
    )


def draw_counters(draw, rows):
    seed, step = (torch.tensor(draw.choice(EDGES)) for _ in range(2))
    if draw.random() < 0.5:
        return Counters(seed, step, *torch.randint(0, 2**32, (2, rows)))
    index = torch.arange(rows)
    return Counters(seed, step, index * 7 + 2**31 - 3, index + draw.choice((0, 2**31, 2**32 - rows)))


def check(name, result, expected, tolerance):
    assert result.shape == expected.shape, f"{name}: {tuple(result.shape)}, expected {tuple(expected.shape)}"
    result, expected = result.detach().double(), expected.detach().double()
    error = float(((result - expected).abs() / (1 + expected.abs())).max())
    assert error <= tolerance, f"{name}: off by {error:.2e}, at most {tolerance:.2e} expected"


def check_with_gradients(case, call, inputs, tolerance, of_gradients):
    """Compare call(inputs, kernel), and its gradients in all inputs."""
    wide = [x.detach().double().requires_grad_() for x in inputs]
    result, expected = call(inputs, "cpu"), call(wide, "reference")
    check("result", result, expected, tolerance)
    towards = torch.randn(result.shape).to(result.dtype)
    gradients = torch.autograd.grad(result, inputs, towards)
    for got, truth in zip(gradients, torch.autograd.grad(expected, wide, towards.double()), strict=True):
        check("gradient", got, truth, of_gradients)


def q_sample(case):
    t, stream, (x0, row) = case.steps(), case.stream(), case.source()

    def call(inputs, kernel):
        options = {"mask_R": case.mask, "row_R": row, "kernel": kernel}
        return ops.q_sample(inputs[0], t, case.schedule, case.counters, stream, **options)

    check_with_gradients(case, call, [x0], *of_corruption(case, row))


def of_corruption(case, row):
    """Tolerances of the result and of the gradient, in which several rows may be summed."""
    rounding = ROUNDING[case.dtype]
    most = 1 if row is None else int(row.bincount().max())
    return rounding + NOISE[case.rounding], rounding if most == 1 else 3 * rounding * most**0.5


def corrupt(case):
    group, stream, step_stream, drawn = case.draw.choice((1, 2, 3, 8, 16)), case.stream(), case.stream(), []
    x0, row = case.source()

    def call(inputs, kernel):
        x, t = ops.corrupt(
            inputs[0],
            case.schedule,
            case.counters,
            stream,
            step_stream,
            group=group,
            mask_R=case.mask,
            row_R=row,
            kernel=kernel,
        )
        drawn.append(t)
        return x

    check_with_gradients(case, call, [x0], *of_corruption(case, row))
    assert torch.equal(*drawn), "other steps"


def reverse_step(case):
    guided = case.draw.random() < 0.5
    name, eta = case.draw.choice((("ddim", 0.0), ("ddim", 0.3), ("ddim", 1.0), ("ddpm", 0.0)))
    sampler = Sampler(name, eta, case.draw.choice((0.0, 0.5, 3.0)) if guided else 0.0)
    t, stream = case.steps(), case.stream()
    t_prev = (t - case.draw.choice((1, 1, 2, 5, 1000))).clamp_min(-1)

    def call(inputs, kernel):
        x, x0hat, *null = inputs
        return ops.reverse_step(
            x,
            x0hat,
            t,
            t_prev,
            case.schedule,
            case.counters,
            stream,
            sampler=sampler,
            null_RD=null[0] if guided else None,
            mask_R=case.mask,
            kernel=kernel,
        )

    weight = 1 + 2 * sampler.guidance
    rounding = 1.5 * weight * ROUNDING[case.dtype] + COEFFICIENTS
    inputs = [case.tensor() for _ in range(3 if guided else 2)]
    noise = NOISE[case.rounding] if sampler.noisy else 0
    check_with_gradients(case, call, inputs, rounding + noise, rounding)


def diffusion_loss(case):
    (target, row), scale = case.source(), case.draw.choice((1.0, 3.0, 1e-3))

    def call(inputs, kernel):
        (prediction,) = inputs
        target_of_dtype = target.detach().to(prediction.dtype)
        return scale * ops.diffusion_loss(prediction, target_of_dtype, case.mask, row_R=row, kernel=kernel)

    prediction = case.tensor()
    check_with_gradients(case, call, [prediction], 3e-6, 2 * ROUNDING[case.dtype])


def dropout(case):
    p, stream = case.draw.choice((1e-9, 0.1, 0.5, 0.9, 0.999)), case.stream()
    inputs = [case.tensor() for _ in range(case.draw.choice((1, 2)))]

    def call(inputs, kernel):
        x, *residual = inputs
        return ops.dropout(
            x, p, case.counters, stream, residual_RD=residual[0] if residual else None, kernel=kernel
        )

    rounding = ROUNDING[case.dtype]
    check_with_gradients(case, call, inputs, rounding, rounding)


def words(case):
    result, expected = (
        ops.words(case.counters, case.columns, 3, kernel=kernel) for kernel in ("cpu", "reference")
    )
    assert torch.equal(result, expected), "other words"


def normal(case):
    result, expected = (
        ops.normal(case.counters, case.columns, 3, kernel=kernel) for kernel in ("cpu", "reference")
    )
    check("normals", result, expected, NOISE[case.rounding])


OPERATIONS = {
    function.__name__: function
    for function in (q_sample, corrupt, reverse_step, diffusion_loss, dropout, words, normal)
}


def compare(library, operation, cases):
    """Raises AssertionError with the first case that differs; `library` is in place of the CPU kernels."""
    for seed in cases:
        case = draw_case(seed)
        library.set(case.order, case.rounding, seed=seed)
        try:
            OPERATIONS[operation](case)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"{operation}, case {seed}: {error}\n{case}") from error
        finally:
            library.set()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", type=Path)
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("cases", type=int)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    library = Library(options.library)
    with library.in_place_of_the_cpu_kernels():
        compare(library, options.operation, range(options.first, options.first + options.cases))


if __name__ == "__main__":
    sys.exit(main())
