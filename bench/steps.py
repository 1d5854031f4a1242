"""A few training steps of the whole model with each backbone and ZeRO stage, and who waits for whom.

    python -m bench.steps [--device cuda|cpu] [--backbones sasrec] [--stages 0 1] [--seconds 120] [--out DIR]

In bfloat16 on one device, on a data set that it makes itself, through the stream, DeepSpeed's engine and the
step of a run. Each stage has a process of its own and an equal share of the seconds that are left, so that
one which fails or hangs does not stop the others. Under torch.profiler, which slows the host down, a GPU's
row has:

  host waits/step    calls in which the host waits for the device (synchronise, blocking copies)
  busy               share of the time in which the device runs a kernel or a copy

Writes DIR/steps-DEVICE.csv row by row; exit 1 if one failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.contestants import ours
from bench.report import RESULTS, Report

BACKBONES = ("sasrec", "gru4rec", "nextitnet")
STAGES = (0, 1, 2, 3)
WARM_UP, STEPS = 4, 8
# CUDA's calls that return when the device is done.
WAITS = (
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuCtxSynchronize",
)
COLUMNS = ("backbone", "ZeRO", "result", "ms/step", "host waits/step", "busy", "GiB", "loss")
EMPTY = dict.fromkeys(COLUMNS, "")
ROW = re.compile(r'\{"backbone"')  # beside what DeepSpeed prints


def main() -> int:
    """Run all stages, or with `--data` one of them in this process."""
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--stages", nargs="+", type=int, choices=STAGES, default=STAGES)
    parser.add_argument("--seconds", type=float, default=120, help="for all together (default: 120)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)  # of a stage, in its own process
    settings = parser.parse_args()
    if settings.data is None:
        return run_all(settings)
    ours.choose_port()
    for backbone in settings.backbones:
        print(json.dumps(tried(backbone, settings.stages[0], settings.data)), flush=True)
    return 0


def run_all(settings: argparse.Namespace) -> int:
    """Each stage in its own process; 1 if a row is not `passed`."""
    end = time.monotonic() + settings.seconds
    on = torch.cuda.get_device_name() if settings.device == "cuda" else None
    report = Report(settings.out / f"steps-{settings.device}.csv", on)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        for number, stage in enumerate(settings.stages):
            share = (end - time.monotonic()) / (len(settings.stages) - number)
            for row in in_a_process(settings.backbones, stage, data, settings.device, max(share, 1)):
                report.add(**{**EMPTY, **row})
    failed = [f"{row['backbone']}, ZeRO {row['ZeRO']}" for row in report.rows if row["result"] != "passed"]
    report.close(f"failed: {'; '.join(failed)}" if failed else f"all {len(report.rows)} passed")
    return 1 if failed else 0


def make_data(folder: Path) -> Path:
    """A data set of some thousand users, with frames."""
    from shards import synthesise

    synthesise(folder / "data", users=3000, videos=1000, frames=4, width=64, seed=1)
    return folder / "data"


def in_a_process(
    backbones: Iterable[str], stage: int, data: Path, device: str, seconds: float
) -> Iterator[dict[str, Any]]:
    """A row for each backbone, also for those to which the process did not come."""
    command = [
        sys.executable,
        "-m",
        "bench.steps",
        "--data",
        str(data),
        "--stages",
        str(stage),
        "--backbones",
    ]
    environment = {**os.environ, "DS_ACCELERATOR": device}
    try:
        done = subprocess.run(
            [*command, *backbones], env=environment, stdout=subprocess.PIPE, text=True, timeout=seconds
        )
        output, end = done.stdout, f"exit code {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        output, end = (expired.stdout or b"").decode(errors="replace"), "out of time"
    rows = {row["backbone"]: row for row in map(json.loads, filter(ROW.match, output.splitlines()))}
    for backbone in backbones:
        yield rows.get(backbone, {"backbone": backbone, "ZeRO": stage, "result": end})


def tried(backbone: str, stage: int, data: Path) -> dict[str, Any]:
    """A row: the cells of `steps`, or the last line of its error."""
    row: dict[str, Any] = {"backbone": backbone, "ZeRO": stage}
    try:
        return {**row, "result": "passed", **steps(backbone, stage, data)}
    except Exception as error:  # whatever it is, the next backbone has its turn
        traceback.print_exc()
        return {**row, "result": (str(error).strip() or repr(error)).splitlines()[-1][:200]}


def steps(backbone: str, stage: int, data: Path, *more: str) -> dict[str, Any]:
    """Train `WARM_UP` steps and measure `STEPS` more, in this process: cells of a row.

    more: options of `./launch.sh`.
    """
    from trainer import distributed, options, prepare
    from trainer.inputs import Inputs

    chosen = {"model.backbone.name": backbone, "train.zero_stage": stage, "train.precision": "bf16"}
    arguments = [text for name, value in chosen.items() for text in (f"--{name}", str(value))]
    config = options.parse(["--data", str(data), *arguments, *more])
    world = distributed.init()
    _, batching = prepare.check_run(config, world_size=1, on_gpu=world.on_gpu)
    inputs = Inputs(config.data, config.model, world, config.seed)
    stream, step = inputs.train_stream(batching), ours.deepspeed_step(config, batching, inputs)
    batches = itertools.chain.from_iterable(map(stream.epoch, itertools.count()))
    for number in range(WARM_UP):
        step(next(batches), 0, number)
    measured = on_gpu if world.on_gpu else on_cpu
    return measured(lambda number: step(next(batches), 0, WARM_UP + number).loss)


def on_cpu(step: Callable[[int], float]) -> dict[str, Any]:
    """Time of the steps; there is no device to wait for."""
    begin = time.perf_counter()
    losses = [step(number) for number in range(STEPS)]
    return {"ms/step": 1e3 * (time.perf_counter() - begin) / STEPS, "loss": losses[-1]}


def on_gpu(step: Callable[[int], float]) -> dict[str, Any]:
    """Time, waits of the host, share of the time in which the GPU works, and memory."""
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        begin = time.perf_counter()
        losses = [step(number) for number in range(STEPS)]
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    events = list(profiler.events() or ())
    waits = sum(event.name in WAITS for event in events) - 1  # the last is ours
    on_device = (event for event in events if event.device_type == torch.autograd.DeviceType.CUDA)
    spans = (
        (event.time_range.start, event.time_range.end) for event in on_device if not event.is_user_annotation
    )
    return {
        "ms/step": 1e3 * seconds / STEPS,
        "host waits/step": waits / STEPS,
        "busy": covered(spans) / 1e6 / seconds,
        "GiB": torch.cuda.max_memory_allocated() / 2**30,
        "loss": losses[-1],
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of the time axis the spans cover, each moment once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


if __name__ == "__main__":
    sys.exit(main())
