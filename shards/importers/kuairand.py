"""KuaiRand: `log_*.csv`, one or several files.

Columns are `user_id, video_id, ..., time_ms, is_click, is_like, long_view, ...`; the published k-core files
are tab-separated and have `label` (1 = like, 0 = hate) instead of `is_like`.
"""

from __future__ import annotations

import argparse

from shards.importers.fields import flag, identifier, number_time
from shards.importers.source import Log, Source, existing

HELP = "KuaiRand: one or several logs, csv or tsv"
SIGNALS = {"click": "is_click", "like": "is_like", "long_view": "long_view", "label": "label"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this format."""
    parser.add_argument(
        "--signal",
        choices=SIGNALS,
        default="click",
        help="which events count as positive: the log's is_click, is_like, long_view or, in the published "
        "k-core files, label (default %(default)s)",
    )


def source(arguments: argparse.Namespace) -> Source:
    """The log that the arguments name."""
    fields = {
        "user": identifier("user_id"),
        "item": identifier("video_id"),
        "time": number_time("time_ms"),
        "keep": flag(SIGNALS[arguments.signal]),
    }
    return Log("kuairand", existing(arguments.source), fields, {"signal": arguments.signal})
