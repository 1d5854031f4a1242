"""The CUDA kernels on the CPU: their sources compiled by a C++ compiler, threads and warps in software.

Values and gradients are compared with the reference in float64. That says nothing about speed or nvcc.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mealrec import ops
from mealrec.ops import Counters, Sampler, Schedule, build
from tests.mealrec.ops.cuda_on_cpu import compare
from tests.mealrec.ops.cuda_on_cpu.library import ORDERS, Library, compile_all, compile_with_fault

ROOT = Path(__file__).parents[3]

# kernel, file, right, wrong, and the operation in which it must show
FAULTS = {
    "loads beyond a row": (
        "q_sample",
        "rows.cuh",
        "column < columns ? row[column] : T(0.0f)",
        "row[column]",
        "q_sample",
    ),
    "stores beyond a row": (
        "dropout",
        "rows.cuh",
        "if (column < columns) row[column]",
        "row[column]",
        "dropout",
    ),
    "stride that is not aligned": (
        "q_sample",
        "rows.cuh",
        " && rows.stride * element % 16 == 0",
        "",
        "q_sample",
    ),
    "part of a vector": (
        "q_sample",
        "q_sample.cu",
        " && aligned(a.out, a.shape, element)",
        "",
        "q_sample",
    ),
    "part of a vector in the loss": (
        "diffusion_loss",
        "diffusion_loss.cu",
        "a.shape.columns * element % 16 == 0 && ",
        "",
        "diffusion_loss",
    ),
    "no barrier": ("diffusion_loss", "diffusion_loss.cu", "  __syncthreads();", "", "diffusion_loss"),
    "partial sums left out": (
        "diffusion_loss",
        "diffusion_loss.cu",
        "i < count;",
        "i < count && i < 8;",
        "diffusion_loss",
    ),
    "gradient of the loss itself": (
        "diffusion_loss_gradient",
        "diffusion_loss_gradient.cu",
        " * grad;",
        ";",
        "diffusion_loss",
    ),
    "rows as they lie": ("q_sample", "rows.cuh", "r = __ldg(rows.row + r);", "", "q_sample"),
    "target of the row itself": (
        "diffusion_loss",
        "diffusion_loss.cu",
        "row_of<T>(a.target, ",
        "row_of<T>(static_cast<const Rows&>(a.target), ",
        "diffusion_loss",
    ),
    "table of the step before": ("q_sample", "q_sample.cu", "a.signal + t + 1", "a.signal + t", "q_sample"),
    "sine twice": ("q_sample", "random.cuh", "__cosf(angle)", "__sinf(angle)", "q_sample"),
    "no groups": ("q_sample", "q_sample.cu", "source.row - source.row % a.group", "source.row", "corrupt"),
    "sign of guidance": (
        "reverse_step",
        "reverse_step.cu",
        "other = -k.x0hat",
        "other = k.x0hat",
        "reverse_step",
    ),
    "one quad twice": ("q_sample", "random.cuh", "(N / 4) + quad)", "(N / 4))", "q_sample"),
    "mask of the row before": (
        "scale_rows",
        "rows.cuh",
        "!mask[r]",
        "!mask[r ? r - 1 : 0]",
        "q_sample",
    ),
    "one row too many": (
        "dropout",
        "rows.cuh",
        "r >= shape.rows",
        "r > shape.rows",
        "dropout",
    ),
    "one packed row too many": (
        "dropout",
        "rows.cuh",
        "first_row + local[i] < shape.rows",
        "first_row + local[i] <= shape.rows",
        "dropout",
    ),
    "packed rows of the next block": (
        "diffusion_loss",
        "rows.cuh",
        "local[i] < mapping.rows && ",
        "",
        "diffusion_loss",
    ),
    "packed rows by an inverse rounded down": (
        "q_sample",
        "rows.cuh",
        "(65536 + vectors - 1) / vectors",
        "65536 / vectors",
        "q_sample",
    ),
    "mask of another packed row": (
        "q_sample",
        "rows.cuh",
        "mask[first_row + local[i]]",
        "mask[first_row]",
        "q_sample",
    ),
    "rows of 32 bits": ("draw", "random.cuh", "row(uint32_t(", "row(0x7FFFFFFF & uint32_t(", "words"),
    "a mask of lanes that have ended": (
        "draw",
        "draw.cu",
        "const Source source",
        "const Key late(a.counters);\n  const Source source",
        "words",
    ),
}


@pytest.fixture(scope="module")
def compiler():
    try:
        build.compilers("cpu")
    except build.Unavailable as reason:
        pytest.skip(f"the CUDA sources are not run on the CPU: {reason}")


@pytest.fixture(scope="module")
def built(compiler, tmp_path_factory):
    return Library(compile_all(tmp_path_factory.mktemp("cuda_on_cpu") / "plain"))


@pytest.fixture
def library(built):
    with built.in_place_of_the_cpu_kernels():
        yield built


@pytest.fixture(scope="module")
def sanitized(compiler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda_on_cpu") / "sanitized"
    compile_all(folder, sanitized=True)
    return folder


def compare_apart(path, operation, cases):
    """In a process of its own, with the sanitizers' libraries, which end it at the first fault."""
    cxx = build.compilers("cpu")["cxx"]
    sanitizers = [
        subprocess.run([cxx, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    options = {"LD_PRELOAD": " ".join(sanitizers), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "tests.mealrec.ops.cuda_on_cpu.compare",
        str(path),
        operation,
        str(cases),
    ]
    return subprocess.run(command, cwd=ROOT, env=os.environ | options, capture_output=True, text=True)


@pytest.mark.parametrize("operation", compare.OPERATIONS)
def test_equals_the_reference(library, operation):
    compare.compare(library, operation, range(80))


@pytest.mark.slow
@pytest.mark.parametrize("operation", compare.OPERATIONS)
def test_many_cases_equal_the_reference(library, operation):
    compare.compare(library, operation, range(80, 2000))


def make_counters(rows):
    index = torch.arange(rows)
    return Counters(torch.tensor(2**31 + 7), torch.tensor(3), index * 3, index + 2**31)


def test_steps_are_drawn_without_columns(library):
    counters = make_counters(300)
    results = [
        ops.corrupt(torch.zeros(300, 0), Schedule(), counters, 1, 2, kernel=kernel)
        for kernel in ("cpu", "reference")
    ]
    assert results[0][0].shape == (300, 0) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("row", [-1, 4, 2**32])
def test_a_row_that_is_not_there_ends_the_kernel(library, row, monkeypatch):
    """On a GPU the host does not look at the index."""
    monkeypatch.setattr(ops, "check_index", lambda *_: None)
    x0, prediction, index = torch.zeros(4, 8), torch.zeros(40, 8), torch.zeros(40, dtype=torch.int64)
    index[37] = row
    with pytest.raises(RuntimeError, match="a trap"):
        ops.q_sample(x0, 0, Schedule(), make_counters(40), 1, row_R=index, kernel="cpu")
    with pytest.raises(RuntimeError, match="a trap"):
        ops.diffusion_loss(prediction, x0, row_R=index, kernel="cpu")


@pytest.mark.parametrize("columns", [24, 200])
def test_bits_do_not_depend_on_the_order_of_threads(library, columns):
    x, y = torch.randn(2, 600, columns)
    t, counters = torch.arange(600) % 9 + 1, make_counters(600)
    results = []
    for order in ORDERS:
        library.set(order)
        noisy = ops.q_sample(x, t, Schedule(), counters, 1, kernel="cpu")
        back = ops.reverse_step(
            noisy, y, t, t - 1, Schedule(), counters, 2, sampler=Sampler("ddpm"), kernel="cpu"
        )
        results.append((back, ops.diffusion_loss(back, y, kernel="cpu")))
    library.set()
    for back, loss in results[1:]:
        assert torch.equal(back, results[0][0]) and torch.equal(loss, results[0][1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(4_300_000, 512, torch.bfloat16), (4_300_000, 510, torch.bfloat16), (2_200_000, 1000, torch.float32)],
)
def test_more_than_two_to_the_31_elements(library, rows, columns, dtype):
    """The last blocks alone are run: the rest of the memory is never touched, and takes none."""
    library.set(last_blocks=16)
    tail = slice(-40, None)
    x, y = (torch.empty(rows, columns, dtype=dtype) for _ in range(2))
    x[tail], y[tail] = torch.randn(2, 40, columns).to(dtype)
    counters, t, schedule = make_counters(rows), torch.arange(rows) % 10, Schedule()
    last = Counters(counters.seed, counters.step, counters.sample_id[tail], counters.row[tail])

    def check(name, result, expected):
        compare.check(
            name, result[tail][-16:], expected[-16:], compare.ROUNDING[dtype] * 2 + compare.NOISE[False]
        )

    sampled = ops.q_sample(x[tail].double(), t[tail], schedule, last, 5, kernel="reference")
    check("q_sample", ops.q_sample(x, t, schedule, counters, 5, kernel="cpu"), sampled)
    drawn, steps = ops.corrupt(x[tail].double(), schedule, last, 5, 6, kernel="reference")
    result, result_steps = ops.corrupt(x, schedule, counters, 5, 6, kernel="cpu")
    check("corrupt", result, drawn)
    assert torch.equal(result_steps[-16:], steps[-16:])
    ddpm = Sampler("ddpm")
    back = ops.reverse_step(
        x[tail].double(),
        y[tail].double(),
        t[tail],
        t[tail] - 1,
        schedule,
        last,
        5,
        sampler=ddpm,
        kernel="reference",
    )
    check(
        "reverse_step",
        ops.reverse_step(x, y, t, t - 1, schedule, counters, 5, sampler=ddpm, kernel="cpu"),
        back,
    )
    dropped = ops.dropout(x[tail].double(), 0.3, last, 64, residual_RD=y[tail].double(), kernel="reference")
    check("dropout", ops.dropout(x, 0.3, counters, 64, residual_RD=y, kernel="cpu"), dropped)
    gradient = torch.ops.mealrec.diffusion_loss_gradient(x, y, None, None, torch.tensor(1.0))
    check("gradient of the loss", gradient, 2 * (x[tail].double() - y[tail].double()) / columns)
    library.set()


@pytest.mark.slow
@pytest.mark.parametrize("operation", compare.OPERATIONS)
def test_memory_and_arithmetic_are_in_bounds(sanitized, operation):
    done = compare_apart(sanitized / "library.so", operation, 300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_detected(sanitized, name, tmp_path):
    kernel, file, right, wrong, operation = FAULTS[name]
    path = compile_with_fault(tmp_path / "faulty", sanitized, kernel, file, right, wrong)
    done = compare_apart(path, operation, 300)
    assert done.returncode != 0
    assert f"{operation}, case" in done.stderr or "AddressSanitizer" in done.stderr, done.stderr
