"""All checks of the kernels that need a GPU, unattended: `make gpu-check`, within 8 minutes.

    python -m bench.gpu_check [--out DIR]     # all stages, each in a process of its own
    python -m bench.gpu_check parity          # one of them

Needs PyTorch with CUDA, nvcc and Triton, and for the stage `steps` what a run needs. Stages:

  doctor     the state of the kernels, and the build for this GPU
  parity     values and gradients against the float64 reference, all dtypes, odd shapes, masks, strides;
             a side stream, a captured graph, torch.compile without a graph break
  sanitizer  the parity stage's small shapes under compute-sanitizer: memcheck, racecheck, synccheck
  bench      `bench.kernels` on the shapes of the goals, DIR/kernels-cuda.csv
  steps      `bench.steps`: training steps with each backbone and ZeRO stage, DIR/steps-cuda.csv
  profile    Nsight Compute on the two main kernels

A stage that cannot run on the machine is recorded with its output, and the next one goes on. Writes
DIR/gpu-check.csv (stage, result, seconds, said: its output) as it goes; exit 1 if parity, bench or steps did
not pass.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from mealrec import ops
from mealrec.ops import Counters, Sampler, Schedule
from mealrec.product import product

SCHEDULE = Schedule("linear", 10)
SHAPES = [(1, 1), (5, 3), (37, 64), (64, 33), (3, 130), (300, 512), (7, 5000)]
SMALL = SHAPES[:5]
NEEDED = ("parity", "bench", "steps")
# Seconds that a stage may take (the sanitizer: each of its three tools); together eight minutes.
LIMITS = {"doctor": 20, "parity": 60, "sanitizer": 30, "bench": 160, "steps": 125, "profile": 25}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("stage", nargs="?", choices=("parity",), help="one stage, in this process")
    parser.add_argument(
        "--small", action="store_true", help="parity of small shapes alone, without compiling"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.stage == "parity":
        parity(SMALL if arguments.small else SHAPES, compiling=not arguments.small)
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    with open(arguments.out / "gpu-check.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "result", "seconds", "said"])
        for stage, command in commands(arguments.out):
            result, seconds, output = run(stage, command)
            writer.writerow([stage, result, seconds, output])
            file.flush()
            print(f"== {stage}: {result}, {seconds} s\n{output}\n", flush=True)
            if result != "passed" and stage in NEEDED:
                failed.append(stage)
    return 1 if failed else 0


def commands(out: Path) -> list[tuple[str, list[str]]]:
    """Stages with their command lines, in order."""
    python = [sys.executable, "-m"]
    small = [*python, "bench.gpu_check", "parity", "--small"]
    stages = [
        ("doctor", [*python, "mealrec.ops", "doctor"]),
        ("parity", [*python, "bench.gpu_check", "parity"]),
    ]
    # Our kernels alone: PyTorch's take too long. Initcheck would take what those write for unwritten.
    for tool in ("memcheck", "racecheck", "synccheck"):
        sanitizer = [
            "compute-sanitizer",
            "--tool",
            tool,
            "--error-exitcode",
            "3",
            "--kernel-name",
            "kernel_substring=mealrec",
        ]
        stages.append((f"sanitizer {tool}", [*sanitizer, *small]))
    # The shapes of the goals; torch.compile takes seconds for each operation, shape and dtype.
    shapes = ["--shapes", "S1", "S2", "S6"]
    stages.append(("bench", [*python, "bench.kernels", "--device", "cuda", *shapes, "--out", str(out)]))
    seconds = str(LIMITS["steps"] - 5)
    stages.append(
        ("steps", [*python, "bench.steps", "--device", "cuda", "--seconds", seconds, "--out", str(out)])
    )
    counters = (
        "dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed"
    )
    counters += ",sm__warps_active.avg.pct_of_peak_sustained_active,gpu__time_duration.sum"
    ncu = [
        "ncu",
        "--clock-control",
        "none",
        "--metrics",
        counters,
        "--kernel-name",
        "regex:q_sample|reverse_step",
    ]
    ncu += [
        "--launch-count",
        "6",
        sys.executable,
        "-m",
        "bench.kernels",
        "--device",
        "cuda",
        "--shapes",
        "S2",
    ]
    stages.append(("profile", [*ncu, "--rounds", "1", "--no-compile", "--out", str(out / "profile")]))
    return stages


def run(stage: str, command: list[str]) -> tuple[str, float, str]:
    """Result (passed, failed, refused or out of time), seconds, and the end of the output."""
    begin = time.monotonic()
    if shutil.which(command[0]) is None:
        return "refused", 0.0, f"{command[0]} is not on the PATH"
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMITS[stage.split()[0]],
        )
        result = "passed" if done.returncode == 0 else f"failed ({done.returncode})"
        output = done.stdout
    except subprocess.TimeoutExpired as ended:
        result, output = "out of time", (ended.stdout or b"").decode(errors="replace")
    return result, round(time.monotonic() - begin, 1), output[-6000:].strip()


def parity(shapes: list[tuple[int, int]], compiling: bool) -> None:
    """Compare with the reference; raises AssertionError with what differs."""
    ops.ready("cuda", torch.device("cuda"))
    checks = 0
    for shape, dtype, masked in itertools.product(shapes, (torch.float32, torch.bfloat16), (False, True)):
        for stride in (0, 3):
            one_shape(shape, dtype, masked, stride)
            checks += 1
    print(f"{checks} shapes, dtypes, masks and strides agree with the float64 reference")
    normals()
    scores()
    streams_and_graphs()
    if compiling and importlib.util.find_spec("triton"):
        compiled()


def make_counters(rows: int, device: str) -> Counters:
    index = torch.arange(rows, device=device)
    return Counters(torch.tensor(11, device=device), torch.tensor(3, device=device), index * 7, index + 2**31)


def everything(x, y, z, counters, mask, kernel):
    """Results of each operation once, and a scalar to differentiate."""
    t = torch.arange(len(x), device=x.device) % SCHEDULE.steps
    sampled = ops.q_sample(x, t, SCHEDULE, counters, 1, mask_R=mask, kernel=kernel)
    row = torch.arange(len(x), device=x.device) // 2
    drawn, _ = ops.corrupt(x, SCHEDULE, counters, 1, 2, group=3, mask_R=mask, row_R=row, kernel=kernel)
    ddim = ops.reverse_step(x, y, t, t - 1, SCHEDULE, counters, 3, mask_R=mask, kernel=kernel)
    ddpm = ops.reverse_step(
        x, y, t, t - 1, SCHEDULE, counters, 3, sampler=Sampler("ddpm", guidance=0.5), null_RD=z, kernel=kernel
    )
    dropped = ops.dropout(x, 0.3, counters, 64, residual_RD=y, kernel=kernel)
    loss = ops.diffusion_loss(x, z, mask, row_R=row, kernel=kernel)
    results = {
        "q_sample": sampled,
        "corrupt": drawn,
        "ddim": ddim,
        "ddpm": ddpm,
        "dropout": dropped,
        "loss": loss,
    }
    return results, loss + sum(results[name].float().mean() for name in results if name != "loss")


def one_shape(shape: tuple[int, int], dtype: torch.dtype, masked: bool, stride: int) -> None:
    rows, columns = shape
    torch.manual_seed(0)
    wide = [torch.randn(rows, columns + stride, device="cuda").to(dtype)[:, :columns] for _ in range(3)]
    mask = torch.arange(rows, device="cuda") % 3 != 1 if masked else None
    own = [v.detach().requires_grad_() for v in wide[:2]]
    truth = [v.detach().double().requires_grad_() for v in own]
    fused, scalar = everything(*own, wide[2], make_counters(rows, "cuda"), mask, "cuda")
    expected, scalar_expected = everything(
        *truth, wide[2].double(), make_counters(rows, "cuda"), mask, "reference"
    )
    scalar.backward()
    scalar_expected.backward()
    fused |= {f"gradient {i}": v.grad for i, v in enumerate(own)}
    expected |= {f"gradient {i}": v.grad for i, v in enumerate(truth)}
    limit = 3e-3 if dtype == torch.float32 else 3e-2
    for name, result in fused.items():
        error = ((result.double() - expected[name]).abs() / (1 + expected[name].abs())).max()
        assert float(error) < limit, (
            f"{name} {shape} {dtype} masked={masked} stride={stride}: {float(error):.2e}"
        )


def normals() -> None:
    counters = make_counters(20_000, "cuda")
    assert torch.equal(
        ops.words(counters, 9, 5, kernel="cuda"), ops.words(counters, 9, 5, kernel="reference")
    )
    error = ops.normal(counters, 128, 5, kernel="cuda") - ops.normal(counters, 128, 5, kernel="reference")
    near, worst = float((error.abs() < 1e-5).float().mean()), float(error.abs().max())
    assert near > 0.999 and worst < 1.5e-3, (near, worst)
    print(f"words bit for bit; normals within 1e-5 for {near:.5%}, {worst:.1e} at worst")


def scores() -> None:
    a, b = (torch.randn(size, 64, device="cuda").bfloat16() for size in (300, 500))
    torch.testing.assert_close(product(a, b.T), a.float() @ b.float().T, rtol=1e-5, atol=1e-4)
    print("scores of bfloat16 rows are those in float32")


def streams_and_graphs() -> None:
    rows, mask, counters = 3000, torch.arange(3000, device="cuda") % 3 != 1, make_counters(3000, "cuda")
    x, y, z = (torch.randn(rows, 256, device="cuda") for _ in range(3))
    expected = everything(x, y, z, counters, mask, "cuda")[1]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        on_side = everything(x, y, z, counters, mask, "cuda")[1]
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(expected, on_side), "a side stream"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(x, y, z, counters, mask, "cuda")[1]
    for step in (8, 9):
        counters.step.fill_(step)
        graph.replay()
        assert torch.equal(captured, everything(x, y, z, counters, mask, "cuda")[1]), "a captured graph"
    print("a side stream and a captured graph give the same; the graph follows the step")


def compiled() -> None:
    counters, mask = make_counters(64, "cuda"), torch.arange(64, device="cuda") % 3 != 1
    x, y, z = (torch.randn(64, 32, device="cuda", requires_grad=True) for _ in range(3))
    results = []
    for function in (everything, torch.compile(everything, fullgraph=True)):
        scalar = function(x, y, z, counters, mask, "auto")[1]
        results.append((scalar.detach(), torch.autograd.grad(scalar, x)[0]))
    torch.testing.assert_close(results[0], results[1])
    print("torch.compile(fullgraph=True) gives the same")


if __name__ == "__main__":
    sys.exit(main())
