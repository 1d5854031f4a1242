"""What DeepSpeed costs on one rank: the step of a run beside the same step in plain PyTorch.

    python -m bench.overhead [--data DIR --preset microlens]

The same model, batches, losses, AdamW and clipping; one thread, in turn. The goal is for ZeRO 0 and 1.
"""

from __future__ import annotations

from bench import race
from bench.command import run_command
from bench.contestants import Entry, started, take_turns
from bench.report import Report, goal

PLAIN, STAGES = "plain PyTorch", (0, 1, 2)


def main() -> None:
    """Race, write the CSV, and compare with the goal."""
    settings, options = race.parse(race.arguments("overhead", __doc__, rounds=15, seconds=1))
    entries = [Entry(PLAIN, "ours", ("plain", *options))]
    for stage in STAGES:
        zero = ("--train.zero_stage", str(stage))
        entries.append(Entry(f"DeepSpeed, ZeRO {stage}", "ours", ("train", *options, *zero)))
    with started(entries) as contestants:
        rates = take_turns(contestants, settings.seconds, settings.rounds)
        report = Report(settings.out)
        ratios = race.add_rates(report, contestants, rates, PLAIN, "targets")
    report.close(
        *(
            goal(f"ZeRO {stage}, time over plain", ratios[f"DeepSpeed, ZeRO {stage}"].median - 1, most=0.03)
            for stage in STAGES[:2]
        )
    )


if __name__ == "__main__":
    run_command(main)
