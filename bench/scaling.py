"""Memory and traffic per rank for ZeRO 0 to 3, measured on the CPU beside what `--dry_run` estimates.

    python -m bench.scaling [--worlds 1 2 4] [--stages 0 1 2 3] [--precisions fp32 bf16]
    python -m bench.scaling --simulate PICTURE [--dim 64]     # the same arithmetic for any size, as a picture

Both are linear in the videos once a run is large, so each is measured at two sizes, and the difference is
divided by that of the parameters: bytes per rank and parameter. Memory is the peak resident size of a rank;
traffic is what the loopback device counts in a step, divided by the ranks, in a network namespace where
nothing else sends. Needs Linux and `unshare`. Writes bench/results/scaling-cpu.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from bench.report import RESULTS, Report
from trainer.launch import dry_run

SIZES = (200_000, 600_000)  # videos
DIM, STEPS = 64, 3


def run_rank(stage: int, precision: Literal["fp32", "bf16"], videos: int, out: Path) -> None:
    """Build the engine as a run does, take some steps, and write the measured bytes to `out` as JSON."""
    import resource

    import torch

    from mealrec import Batch, MealRec, MealRecConfig
    from trainer import distributed, ds_config
    from trainer.batching import resolve
    from trainer.config import TrainConfig
    from trainer.rank import engine
    from trainer.rank.step import TrainStep

    world = distributed.init()
    train = TrainConfig(zero_stage=stage, tensorboard=False, precision=precision)
    batching = resolve(64, 64 // world.size, world.size)
    config = MealRecConfig(videos=videos, max_length=10, dim=DIM)
    config.objective.softmax, config.objective.negatives = "sampled", 256
    model = MealRec(config, seed=0, train_counts=torch.ones(videos + 1, dtype=torch.int64))
    built = engine.build(model, train, ds_config.derive(train, batching, precision=precision))

    def on_device(batch: Any, step: int) -> Batch:
        return {**batch, "global_step": torch.tensor(step)}

    train_step = TrainStep(built, world, on_device=on_device, learning_rates=None)
    item = torch.randint(
        1, videos + 1, (batching.micro_batch_size, 11), generator=torch.Generator().manual_seed(1)
    )
    batch: Any = {
        "sample_id": torch.arange(len(item)),
        "offset": torch.zeros(len(item), dtype=torch.int64),
        "item": item[:, :-1],
        "target": item[:, 1:],
        "weight": torch.ones(len(item)),
    }
    sent = 0
    for index in range(STEPS):
        distributed.barrier()
        before = loopback()
        train_step([batch], 0, index)
        distributed.barrier()
        sent = loopback() - before
    if world.is_main:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        count = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
        out.write_text(json.dumps({"peak": peak, "traffic": sent / world.size, "parameters": count}))
    distributed.barrier()
    distributed.shutdown()


def loopback() -> int:
    """Return the bytes that the loopback device has carried."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    counts = next(line for line in lines if line.strip().startswith("lo:"))
    return int(counts.split(":")[1].split()[0])


def measure(stage: int, precision: str, world_size: int, videos: int) -> dict[str, float]:
    """Run `world_size` ranks in their own network namespace; return peak, traffic and parameters."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        rank = ["--rank", str(stage), precision, str(videos), str(out)]
        command = [sys.executable, "-m", "bench.scaling", *rank]
        ranks = f"$(seq 0 {world_size - 1})"
        script = f'ip link set lo up; for r in {ranks}; do RANK=$r LOCAL_RANK=$r "$@" & done; wait'
        environment = os.environ | {
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29400",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "MALLOC_TRIM_THRESHOLD_": "0",
        }
        done = subprocess.run(
            ["unshare", "-n", "bash", "-c", script, "bash", *command],
            env=environment,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            sys.exit(f"error: {' '.join(command)}: {done.stderr[-2000:]}")
        measured: dict[str, float] = json.loads(out.read_text())
        return measured


def estimated_memory(stage: int, precision: str, world_size: int) -> float:
    """Return the bytes per rank and parameter that `--dry_run` estimates."""
    return sum(dry_run.bytes_per_parameter(stage, world_size, bf16=_is_narrow(stage, precision)))


def expected_traffic(stage: int, precision: str, world_size: int) -> float:
    """Return the bytes per parameter that a rank sends in a step, by rings.

    Gradients go to all and, with ZeRO 1 and 2, new parameters to all; with ZeRO 3 parameters twice, and
    gradients to their owners.
    """
    width = 2 if _is_narrow(stage, precision) else 4
    return (2 if stage == 0 else 3) * width * (world_size - 1) / world_size


def _is_narrow(stage: int, precision: str) -> bool:
    """Whether parameters are in bf16: without ZeRO they stay in float32 (`ds_config.derive`)."""
    return precision == "bf16" and stage > 0


def simulate(picture: Path, dim: int) -> None:
    """Draw memory and traffic per rank over the number of videos, on one host of 8 ranks and on eight."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    videos = [10**5 * 10 ** (step / 10) for step in range(41)]
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.4), sharex=True, sharey="row", layout="constrained")
    for column, world_size in enumerate((8, 64)):
        for row, (bytes_of, unit) in enumerate(
            ((estimated_memory, "memory per rank, GB"), (expected_traffic, "sent per step, GB"))
        ):
            panel = panels[row, column]
            for stage, style in enumerate(("-", "--", "-.", ":")):
                gigabytes = [bytes_of(stage, "bf16", world_size) * count * dim / 1e9 for count in videos]
                panel.loglog(videos, gigabytes, style, color=f"C{stage}", label=f"ZeRO {stage}")
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(unit)
        panels[0, column].axhline(80, color="grey", linewidth=0.8)
        panels[0, column].annotate("a GPU of 80 GB", (1.2e5, 90), fontsize=8, color="grey")
        panels[0, column].set_title(f"{world_size} ranks, D = {dim}, bf16", fontsize=10)
        panels[1, column].set_xlabel("videos")
    panels[0, 0].legend(fontsize=8)
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Measure all cases, print them and write the CSV; or draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--simulate", type=Path, metavar="PICTURE", help="draw what larger runs would take")
    parser.add_argument("--dim", type=int, default=64, help="width of the simulated table (default: 64)")
    parser.add_argument("--rank", nargs=4, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.rank:
        stage, precision, videos, out = settings.rank
        return run_rank(int(stage), precision, int(videos), Path(out))
    if settings.simulate:
        return simulate(settings.simulate, settings.dim)
    report = Report(RESULTS / "scaling-cpu.csv")
    for precision, stage, world_size in itertools.product(
        settings.precisions, settings.stages, settings.worlds
    ):
        case = (stage, precision, world_size)
        small, large = (measure(*case, videos) for videos in SIZES)
        more = large["parameters"] - small["parameters"]
        memory, sent = ((large[what] - small[what]) / more for what in ("peak", "traffic"))
        report.add(
            precision=precision,
            stage=stage,
            world=world_size,
            memory=memory,
            estimated=estimated_memory(*case),
            traffic=sent,
            expected=expected_traffic(*case),
        )
    report.close()


if __name__ == "__main__":
    main()
