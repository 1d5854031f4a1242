"""Evaluation speed on the CPU: users per core-second by full ranking, beside RecBole and RecTools.

    python -m bench.evaluate [--data DIR --preset microlens]

The same backbone, length and width for all; one thread, in turn; weights are untrained, as their values do
not matter. What differs: ours counts the videos above the target, exactly, history masked; RecTools returns
each user's 20 best unseen items, from which metrics at 20 follow; RecBole ranks the target with the history
unmasked. MealRec has both its reverse chains in validation's two steps.
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

OURS = "ours"


def main() -> None:
    """Race, write the CSV, and compare with the goal."""
    settings, options = race.parse(race.arguments("evaluate", __doc__, rounds=5, seconds=2))
    with tempfile.TemporaryDirectory() as folder:
        events = write_events(Index.load(settings.data), Path(folder))
        two_steps = ("--eval.test_sampler_steps", "2")
        entries = [
            Entry(OURS, "ours", ("evaluate", *options, *race.BACKBONE)),
            *race.peers("evaluate", events, race.config_of(options)),
            Entry("MealRec, two steps", "ours", ("evaluate", *options, *two_steps)),
        ]
        with started(present(entries)) as contestants:
            rates = take_turns(contestants, settings.seconds, settings.rounds)
            report = Report(settings.out, versions=versions(contestants))
            ratios = race.add_rates(report, contestants, rates, OURS, "users")
    report.close(goal("times RecTools", race.median_or_none(ratios, "RecTools SASRec"), least=4))


if __name__ == "__main__":
    run_command(main)
