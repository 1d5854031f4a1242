"""What rounding the sizes of batches up to few costs and gains, over an epoch.

    python -m bench.buckets [--data DIR --preset microlens] [-- --train.micro_batch_size 256 ...]

Positions L, real positions N, targets W and distinct videos U of a micro-batch (`shards/stream/buckets.py`):
the share that is added to each, and how many combinations of the four there are. Counts, no times.
"""

from __future__ import annotations

from typing import Any

from bench import race
from bench.command import run_command
from bench.report import Report
from shards.stream import buckets
from trainer import prepare
from trainer.evaluation.run import single_world
from trainer.inputs import Inputs

EXACT, CHOICES = 0, (1, 2, 4, 8)


def main() -> None:
    """Count, print and write the table."""
    settings, options = race.parse(race.arguments("buckets", __doc__, rounds=1, seconds=0))
    config = race.config_of(options)
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    inputs = Inputs(config.data, config.model, single_world(), config.seed)
    report = Report(settings.out)
    exact: dict[str, int] = {}
    for choice in (EXACT, *CHOICES):
        buckets.SIZES_PER_DOUBLING = choice
        stream = inputs.train_stream(batching, few_sizes=choice != EXACT)
        sizes = [sizes_of(batch) for step in stream.epoch(0) for batch in step]
        total = {name: sum(each[name] for each in sizes) for name in sizes[0]}
        exact = exact or total
        report.add(
            **{"sizes per doubling": choice or "exact", "micro-batches": len(sizes)},
            **{f"added to {name}": total[name] / exact[name] - 1 for name in total},
            combinations=len({tuple(each.values()) for each in sizes}),
        )
    report.close()


def sizes_of(batch: Any) -> dict[str, int]:
    """The sizes of a micro-batch that depend on its data."""
    positions, indices = batch["item"].shape[1], (len(batch["real_index"]), len(batch["target_index"]))
    sizes = {"L": positions, "N": indices[0], "W": indices[1]}
    return sizes | {"U": len(batch["frames"])} if "frames" in batch else sizes


if __name__ == "__main__":
    run_command(main)
