"""The command line of `shards`: import, append, frames, attach, synth, check, info."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shards.errors import DataError
from shards.format.check import check_data_set
from shards.format.index import Index
from shards.format.info import describe
from shards.frames import command as frames
from shards.importers import IMPORTERS, append, table
from shards.importers.attach import attach
from shards.importers.pipeline import Options, import_log
from shards.synthetic import data_set, generator

DESCRIPTION = """\
Data sets of MealRec: directories of tar shards that any WebDataset reader opens.

  python -m shards synth  --out data/default            a synthetic world with a known ceiling
  python -m shards import microlens MicroLens-50k_pairs.tsv --features title_tokens.npz --out data/ml50k
  python -m shards append data/ml50k today.csv --out data/today    a data set plus new events
  python -m shards frames videos/ --out features        frame features from videos, for --features
  python -m shards attach data/ml50k --features features --out data/frames
  python -m shards check  data/ml50k                    open every record, name every fault
  python -m shards info   data/ml50k                    counts, lengths, sizes
"""
IMPORT_DESCRIPTION = """\
Import an interaction log, and features where there are any. SOURCE may be gzipped.

  python -m shards import microlens MicroLens-100k_pairs.tsv --preset microlens --out data/ml100k
  python -m shards import microlens pairs.tsv --features videomae.npy --feature-ids row+1 --out data/ml50k
  python -m shards import shortvideo interaciton_filtered.csv --out data/shortvideo \\
                          --features video_feature_total --feature-frames 4
  python -m shards import kuairand log_standard_*.csv --signal like --k-core 5 --out data/kuairand
  python -m shards import recbole ml-100k.inter --min-rating 4 --split time:1998-03-01 --out data/ml100k
  python -m shards import table log.parquet --columns user=uid,item=vid,time=ts --out data/own
  python -m shards import table log.csv --columns user=u,item=v,time=t,split=part --split given --out data/own
"""
IMPORT_EPILOG = """\
Order of work: malformed rows stop the import, naming file and line; events that are not positive go; times
are sorted stably and exact duplicates (same user, video, time) go; then k-core, --min-length, --max-length.
Every drop is reported in numbers and kept in index.json. The same input gives the same bytes.
"""
APPEND_DESCRIPTION = """\
Write a data set once more, with new events: what an import of everything would give, but users and videos
keep their rows, and shards without changes are not written again (they are linked, or else copied).

  python -m shards append data/monday tuesday.csv --columns user=u,item=v,time=t --out data/tuesday
  ./launch.sh --data data/tuesday --init_from runs/monday

Events that are there already are left out; late ones are sorted in by their times. The split, leave-one-out
or none, is drawn again for users with new events, and the --max-length of the import holds for them; its
--k-core and --min-length do not, as the events that they left out are gone.
"""
LIMITS: dict[str, Any] = {"split": "leave-one-out", "k_core": 0, "min_length": 1, "max_length": 0}
# MicroLens's published protocol: users with 5 views or more, their newest 13 (10 inputs and 3 to hold out).
PRESETS: dict[str, dict[str, Any]] = {
    "microlens": {"min_length": 5, "max_length": 13, "split": "leave-one-out"}
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: exit code 0 done, 1 faults found by check, 2 a user's mistake (one line on stderr)."""
    parsed = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` of what it parses is the command's function."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m shards", description=DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "import",
        help="import a log",
        description=IMPORT_DESCRIPTION,
        epilog=IMPORT_EPILOG,
        formatter_class=raw,
    )
    sources = command.add_subparsers(metavar="FORMAT", required=True, dest="format")
    for name, module in IMPORTERS.items():
        one = sources.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=raw)
        one.add_argument(
            "source", nargs="+", metavar="SOURCE", help="the log; several files are read in the order given"
        )
        module.add_arguments(one)
        _add_import_arguments(one)
        one.set_defaults(run=run_import)

    command = commands.add_parser(
        "append",
        help="add new events to a data set",
        description=APPEND_DESCRIPTION,
        formatter_class=raw,
    )
    command.add_argument("data", metavar="SET", help="the data set, a folder or an address")
    command.add_argument(
        "source", nargs="+", metavar="LOG", help="the new events, Parquet or CSV as for import table"
    )
    table.add_arguments(command)
    command.add_argument(
        "--out", type=Path, required=True, metavar="NEW", help="the data set to make; must not exist"
    )
    _add_feature_arguments(command, required=False)
    _add_new_videos_argument(command)
    _add_memory_arguments(command)
    command.set_defaults(run=run_append)

    command = commands.add_parser(
        "frames",
        help="turn videos into frame features",
        description=frames.DESCRIPTION,
        epilog=frames.EPILOG,
        formatter_class=raw,
    )
    frames.add_arguments(command)
    command.set_defaults(run=frames.run)

    command = commands.add_parser(
        "attach",
        help="give a data set other features",
        description="Write a data set once more, with features in place of those that it has, if any.",
    )
    command.add_argument("data", metavar="DATA", help="the data set, a folder or an address")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the data set to make; must not exist"
    )
    _add_feature_arguments(command, required=True)
    command.set_defaults(run=run_attach)

    command = commands.add_parser(
        "synth",
        help="write a synthetic world",
        description=f"{data_set.__doc__}\nDefaults are the default world.\n\n{generator.__doc__}",
        formatter_class=raw,
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data set to make")
    for name, default, text in (
        ("users", data_set.USERS, "users"),
        ("videos", data_set.VIDEOS, "videos"),
        ("frames", data_set.FRAMES, "frames per video; 0: no features"),
        ("width", data_set.WIDTH, "feature width"),
        ("seed", data_set.SEED, "seed of the world"),
    ):
        command.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default %(default)s)"
        )
    command.set_defaults(run=run_synth)

    command = commands.add_parser("check", help="open every record, name every fault; exit 1 if there is any")
    command.add_argument("data", metavar="DIR")
    command.set_defaults(run=run_check)
    command = commands.add_parser("info", help="counts, length histogram, sizes")
    command.add_argument("data", metavar="DIR")
    command.set_defaults(run=run_info)
    return parser


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the data set to make; must not exist")
    add("--name", help="its name (default: from format and file)")
    add(
        "--split",
        help="leave-one-out (default): last item tests, the one before validates | time:DATE: test from DATE "
        "(UTC, or a number in the log's unit), validation the same span before it | "
        "time:VALID_DATE,TEST_DATE | given: the table's split column | none: train on everything",
    )
    add(
        "--k-core",
        type=_count,
        metavar="K",
        help="users and videos with K events or more, repeated until stable",
    )
    add("--min-length", type=_count, metavar="N", help="users with N events or more (after k-core)")
    add("--max-length", type=_count, metavar="N", help="each user's newest N events only")
    add("--preset", choices=PRESETS, help="microlens = --min-length 5 --max-length 13 --split leave-one-out")
    _add_feature_arguments(parser, required=False)
    _add_new_videos_argument(parser)
    _add_memory_arguments(parser)


def _add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--memory",
        default="2GB",
        help="bound of DuckDB's memory, the rest goes to disk; the process needs "
        "0.4 GB, 60 bytes per user and 100 per video more (default %(default)s)",
    )
    add("--spill", type=Path, metavar="DIR", help="where to spill (default: beside --out)")


def _add_feature_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    add = parser.add_argument
    add(
        "--features",
        type=Path,
        required=required,
        metavar="PATH",
        help="folder of ID.npy, stacked .npy, or .npz (item_id, features, length)",
    )
    add(
        "--feature-ids",
        metavar="PATH|row+1",
        help="for a stacked .npy: ids, one per line or .npy; row+1: row j is id j+1",
    )
    add(
        "--feature-frames",
        type=_count,
        default=0,
        metavar="F",
        help="a flat vector is F frames one after the other",
    )


def _add_new_videos_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-videos",
        type=Path,
        metavar="FILE",
        help="ids, one a line, of videos that join though nobody has watched them; they need features",
    )


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number >= 0")
    return int(text)


def run_import(arguments: argparse.Namespace) -> int:
    """`import`: write a data set from a log."""
    preset = PRESETS.get(arguments.preset, {})
    chosen = {name: getattr(arguments, name) for name in LIMITS}
    limits = {
        name: value if value is not None else preset.get(name, LIMITS[name]) for name, value in chosen.items()
    }
    names = ("out", "name", "features", "feature_ids", "feature_frames", "new_videos", "memory", "spill")
    rest = {name: getattr(arguments, name) for name in names}
    index = import_log(IMPORTERS[arguments.format].source(arguments), Options(**rest, **limits))
    _print_summary(index)
    return 0


def run_append(arguments: argparse.Namespace) -> int:
    """`append`: write a data set once more, with new events."""
    names = ("out", "features", "feature_ids", "feature_frames", "new_videos", "memory", "spill")
    options = append.Options(**{name: getattr(arguments, name) for name in names})
    appended = append.append(arguments.data, table.source(arguments), options)
    _print_summary(appended.index)
    print(
        f"  new: {appended.new_users:,} users, {appended.new_videos:,} videos, and events of "
        f"{appended.changed_users:,} known users; {appended.written:,} shards written, {appended.kept:,} kept"
    )
    if appended.late_events:
        print(
            f"  {appended.late_events:,} events are older than their user's newest: sorted in by their times"
        )
    return 0


def run_attach(arguments: argparse.Namespace) -> int:
    """`attach`: write a data set once more, with other features."""
    index = attach(
        arguments.data,
        arguments.out,
        features=arguments.features,
        ids=arguments.feature_ids,
        frames=arguments.feature_frames,
    )
    _print_summary(index)
    return 0


def run_synth(arguments: argparse.Namespace) -> int:
    """`synth`: write a synthetic world, print its floor and its ceiling."""
    index = data_set.synthesise(
        arguments.out, arguments.users, arguments.videos, arguments.frames, arguments.width, arguments.seed
    )
    _print_summary(index)
    scores = data_set.read_oracle(index)
    print(f"{'':12s} {'valid HR@10':>12s} {'NDCG@10':>9s} {'test HR@10':>12s} {'NDCG@10':>9s}")
    for name, score in (("popularity", scores["popularity"]), ("oracle", scores)):
        valid, test = score["valid"], score["test"]
        print(
            f"{name:12s} {valid['hr@10']:12.4f} {valid['ndcg@10']:9.4f} "
            f"{test['hr@10']:12.4f} {test['ndcg@10']:9.4f}"
        )
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """`check`: print every fault of a data set."""
    faults = 0
    for fault in check_data_set(arguments.data):
        faults += 1
        print(fault)
    print(f"{arguments.data}: {'sound' if not faults else f'{faults} fault' + 's' * (faults > 1)}")
    return 1 if faults else 0


def run_info(arguments: argparse.Namespace) -> int:
    """`info`: print what a data set holds."""
    print(describe(arguments.data))
    return 0


def _print_summary(index: Index) -> None:
    counts = index.counts
    print(
        f"wrote {index.path}: {index.users:,} users, {index.videos:,} videos, "
        f"{index.interactions:,} interactions"
    )
    evaluated = f"{counts.valid_users:,} users validate, {counts.test_users:,} test"
    short = f"{counts.short_users:,} users are too short for it"
    print(f"  {counts.train_events:,} events train, {evaluated}; {short}")
    if index.features:
        have = f"{index.features.videos_with_features:,} of {index.videos:,} videos"
        print(f"  features [{index.frames}, {index.width}] {index.features.dtype} of {have}")
    for name, count in index.source.get("drops", {}).items():
        if name != "events_read":
            print(f"  {name.replace('_', ' '):38s} {count:>12,}")


if __name__ == "__main__":
    sys.exit(main())
