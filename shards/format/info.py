"""`python -m shards info DIR`: what a data set holds, in text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shards.errors import printable
from shards.format.index import Index

BAR = 40


def describe(path: str | Path) -> str:
    """Counts, the histogram of training lengths, sizes and drops of the data set at `path`."""
    index = Index.load(path)
    counts = index.counts
    sequences, features = (
        sum(e.bytes for e in part) for part in (index.sequence_shards, index.feature_shards)
    )
    mean = index.interactions / index.users
    density = index.interactions / (index.users * index.videos)
    lines = [
        f"{index.name}  ({index.path})",
        f"  fingerprint    {index.fingerprint}",
        f"  users          {index.users:,}  (ids: {index.user_id_type})",
        f"  videos         {index.videos:,}  (ids: {index.item_id_type})",
        f"  interactions   {index.interactions:,}  ({mean:.2f} a user, density {density:.2e})",
        f"  split          {index.split['kind']}"
        + "".join(f", {k} {v}" for k, v in index.split.items() if k != "kind"),
        f"  training       {counts.train_events:,} events",
        f"  evaluated      {counts.valid_users:,} users in validation, {counts.test_users:,} in test",
        f"                 {counts.short_users:,} users with fewer than 3 items train only",
        f"  sequences      {len(index.sequence_shards)} shards, {format_size(sequences)}",
    ]
    if index.features:
        shape = f"[{index.frames}, {index.width}] {index.features.dtype}"
        without = index.videos - index.features.videos_with_features
        lines.append(
            f"  features       {len(index.feature_shards)} shards, {format_size(features)}, {shape} a video"
        )
        lines.append(f"                 {without:,} videos without features")
    else:
        lines.append("  features       none")
    made = ", ".join(f"{k} {v}" for k, v in index.source.items() if not isinstance(v, dict) and v is not None)
    lines.append(f"  source         {made}")
    drops = index.source.get("drops", {})
    lines += [f"    {name.replace('_', ' '):34s} {count:>14,}" for name, count in drops.items()]
    lines += [
        "",
        "events in a user's training part",
        *histogram(pair for e in index.sequence_shards for pair in e.train_lengths),
    ]
    return "\n".join(map(printable, lines))


def histogram(pairs: Iterable[tuple[int, int]]) -> list[str]:
    """Bars over lengths 0, 1, 2, 3-4, 5-8, 9-16, ...

    pairs: (length, users) in any order; a length may come more than once.
    """
    bins: dict[int, int] = {}
    for length, users in pairs:
        number = length if length <= 2 else (length - 1).bit_length() + 1
        bins[number] = bins.get(number, 0) + users
    most = max(bins.values(), default=1)
    lines = []
    for number in range(min(bins, default=0), max(bins, default=0) + 1):
        users = bins.get(number, 0)
        label = str(number) if number <= 2 else f"{2 ** (number - 2) + 1}-{2 ** (number - 1)}"
        bar = "#" * round(BAR * users / most) or ("." if users else "")
        lines.append(f"  {label:>11s}  {users:>12,}  {bar}")
    return lines


def format_size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    return f"{value:.1f} TiB"
