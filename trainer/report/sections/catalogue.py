"""What the recommended videos are like: how many of the catalogue, and how well known."""

from __future__ import annotations

from trainer.report.blocks import Cell, Section, Table, number, share
from trainer.report.comparison import Comparison


def section(comparison: Comparison) -> Section:
    """Return the section."""
    found = comparison.recommended
    notes = [f"{comparison.names[n]} was not ranked: {why}." for n, why in comparison.unranked.items()]
    if not found:
        return Section("catalogue", "Recommended videos", notes=notes)
    ranked = [*found.values()]
    shown = [run.of_recommended for run in ranked]
    rows = [
        [
            Cell("coverage: share of the catalogue that somebody gets"),
            *(share(each.coverage) for each in shown),
        ],
        [
            Cell("novelty: mean of -log2 of a video's popularity"),
            *(number(each.novelty, 2) for each in shown),
        ],
        [Cell("novelty of the targets"), *(number(run.of_targets.novelty, 2) for run in ranked)],
        [Cell("share without training interactions"), *(share(each.cold) for each in shown)],
        [Cell("users"), *(Cell(f"{run.users:,}") for run in ranked)],
        [Cell("videos in the catalogue"), *(Cell(f"{run.videos:,}") for run in ranked)],
    ]
    columns = ["", *(comparison.names[n] for n in found)]
    table = Table("Top 10 of every user", columns, rows, dict(enumerate(found, start=1)))
    return Section(
        "catalogue",
        "Recommended videos",
        f"The ten best videos for every {comparison.split} user, by the best weights. A video's popularity is"
        " its share of the training interactions, of one of them at least.",
        notes,
        [table],
    )
