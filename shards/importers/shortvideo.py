"""ShortVideo: the interaction log `interaciton_filtered.csv` (spelt so).

Columns are `user_id, pid, exposed_time, ..., effective_view`. Positive by default: effective views. Features:
the folder `video_feature_total` of `<pid>.npy`, flat vectors of 4 x 768 (`--feature-frames 4`); an extraction
that failed is all zeros and counts as no features.
"""

from __future__ import annotations

import argparse

from shards.importers.fields import flag, identifier
from shards.importers.source import Log, Source, existing
from shards.importers.table import time_field

HELP = "ShortVideo: its interaction log"
SIGNALS = {"effective_view": "effective_view", "all": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this format."""
    parser.add_argument(
        "--signal",
        choices=SIGNALS,
        default="effective_view",
        help="which events count as positive (default %(default)s)",
    )


def source(arguments: argparse.Namespace) -> Source:
    """The log that the arguments name."""
    files = existing(arguments.source)
    fields = {
        "user": identifier("user_id"),
        "item": identifier("pid"),
        "time": time_field(files[0], "exposed_time"),
    }
    if column := SIGNALS[arguments.signal]:
        fields["keep"] = flag(column)
    return Log("shortvideo", files, fields, {"signal": arguments.signal})
