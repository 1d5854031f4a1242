"""What NPD changes in the rankings: as trained, against the same weights with `npd.mix` at 0."""

from __future__ import annotations

from trainer.report.blocks import Cell, Section, Table, difference, estimate, number, share
from trainer.report.comparison import Comparison


def section(comparison: Comparison) -> Section:
    """Return the section."""
    found = {n: ranked.npd for n, ranked in comparison.recommended.items() if ranked.npd}
    changes = [*found.values()]
    rows = [
        [Cell("npd.mix"), *(number(change.mix, 2) for change in changes)],
        [Cell("users whose first video is another one"), *(share(change.other_first) for change in changes)],
        [Cell("share of the top 10 that both have"), *(share(change.overlap) for change in changes)],
        [Cell("NDCG@10 with NPD"), *(estimate(change.ndcg) for change in changes)],
        [Cell("NDCG@10 with npd.mix 0"), *(estimate(change.ndcg_without) for change in changes)],
        [Cell("difference, user by user"), *(difference(change.difference) for change in changes)],
    ]
    columns = ["", *(comparison.names[n] for n in found)]
    table = Table("Rankings with and without NPD", columns, rows, dict(enumerate(found, start=1)))
    return Section(
        "preference",
        "What NPD changes",
        f"The {comparison.split} users are ranked by their preference after NPD and before it, with the same"
        " weights. That shows what NPD does in ranking, not how good a model trained without it would be.",
        tables=[table] if found else [],
    )
