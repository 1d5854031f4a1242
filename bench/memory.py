"""Peak memory of training on the CPU, whole processes with their libraries, beside RecBole and RecTools.

    python -m bench.memory [--data DIR --preset microlens]

Resident bytes at their highest (VmHWM) after a round of training with the full softmax. Batches are as in
`bench.train`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench import race
from bench.command import run_command
from bench.contestants import Entry, present, started, take_turns, versions
from bench.data import write_events
from bench.report import Report, goal
from shards import Index

MIB = 2**20


def main() -> None:
    """Train each for a while, write the CSV, and compare with the goal."""
    settings, options = race.parse(race.arguments("memory", __doc__, rounds=1, seconds=3))
    with tempfile.TemporaryDirectory() as folder:
        events = write_events(Index.load(settings.data), Path(folder))
        backbone = (*options, *race.BACKBONE, *race.FULL_SOFTMAX)
        entries = [
            Entry("ours", "ours", ("train", *backbone)),
            Entry("MealRec", "ours", ("train", *options)),
            *race.peers("train", events, race.config_of(options)),
        ]
        with started(present(entries)) as contestants:
            take_turns(contestants, settings.seconds, settings.rounds)
            report = Report(settings.out, versions=versions(contestants))
            peaks = {name: c.rounds[-1]["peak"] for name, c in contestants.items()}
            for name, peak in peaks.items():
                report.add(
                    contestant=name,
                    MiB=round(peak / MIB),
                    **{"ours is x": peaks["ours"] / peak},
                    objective=contestants[name].about["objective"],
                )
    theirs = peaks.get("RecBole SASRec")
    report.close(goal("share of RecBole's peak", theirs and peaks["ours"] / theirs, most=0.7))


if __name__ == "__main__":
    run_command(main)
