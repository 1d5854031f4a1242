"""Training speed on the CPU: targets per core-second, beside RecBole, RecTools, RePlay and bare products.

    python -m bench.train [--data DIR --preset microlens]

The same backbone (SASRec, two layers), data, length, width and full softmax for all; one thread, in turn.
What differs: RecBole trains a row for each prefix of a sequence, the others all positions in one pass;
RecTools and RePlay keep a user's newest items alone, ours cuts longer histories into windows; batches are
each one's own. Ours is also shown with a sampled softmax, with the mean of the frames where the data set has
features, and as MealRec, with TCD on the frames and NPD. The goal for the wait is its share of wall time.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench import race
from bench.command import run_command
from bench.contestants import Entry, present, started, take_turns, versions
from bench.data import write_events
from bench.report import Report, goal
from bench.timing import ratio
from shards import Index

OURS, PRODUCTS, MEALREC = "ours", "matrix products alone", "MealRec"
SAMPLED, MEAN = "ours, sampled softmax", "ours, the mean of the frames"


def main() -> None:
    """Race, write the CSV, and compare with the goals."""
    settings, options = race.parse(race.arguments("train", __doc__, rounds=5, seconds=2))
    backbone = (*options, *race.BACKBONE, *race.FULL_SOFTMAX)
    with tempfile.TemporaryDirectory() as folder:
        index = Index.load(settings.data)
        events = write_events(index, Path(folder))
        entries = [
            Entry(OURS, "ours", ("train", *backbone)),
            Entry(PRODUCTS, "products", backbone),
            *race.peers("train", events, race.config_of(options)),
            Entry(SAMPLED, "ours", ("train", *options, *race.BACKBONE, *race.SAMPLED_SOFTMAX)),
            Entry(MEALREC, "ours", ("train", *options)),
        ]
        if index.frames:
            entries.append(Entry(MEAN, "ours", ("train", *options, *race.NO_DIFFUSION)))
        with started(present(entries)) as contestants:
            rates = take_turns(contestants, settings.seconds, settings.rounds)
            report = Report(settings.out, versions=versions(contestants))
            ratios = race.add_rates(report, contestants, rates, OURS, "targets")
            waits = [r["waited"] / r["wall"] for r in contestants[MEALREC].rounds[1:]]
    wait = statistics.median(waits)
    share = ratio(rates[MEALREC], rates[MEAN]).median if index.frames else None
    report.close(
        goal("full softmax, times RecBole", race.median_or_none(ratios, "RecBole SASRec"), least=8),
        goal("full softmax, times RecTools", race.median_or_none(ratios, "RecTools SASRec"), least=12),
        goal("full softmax, share of the matrix products' rate", ratios[PRODUCTS].median, least=0.75),
        goal("MealRec, share of the rate with the mean of the frames", share, least=0.5),
        goal("MealRec, share of wall time that waits for input", wait, most=0.02),
    )


if __name__ == "__main__":
    run_command(main)
