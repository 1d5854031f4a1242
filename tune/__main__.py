"""`python -m tune`: sweeps of the trainer's options on Ray Tune."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import DONE, FAILED, UserError, is_mistake, report
from tune import space as space_file


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tune",
        description="Sweeps of the trainer's options, on this machine or a Ray cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser(
        "sweep",
        help="try the points of SPACE.yaml",
        description=space_file.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("space", metavar="SPACE.yaml", type=Path)
    sweep.add_argument("--data", required=True, type=Path, help="data set, made by `python -m shards`")
    sweep.add_argument(
        "--out", required=True, type=Path, help="directory of runs, results.csv and the ledger"
    )
    sweep.add_argument(
        "--max-concurrent", type=int, help="trials at once (default: as the space says, or as fit)"
    )
    sweep.add_argument("--gpus-per-trial", type=int, help="GPUs of a trial, a rank on each")
    sweep.add_argument("--address", help="a Ray cluster's address, or auto for the one that runs here")
    sweep.add_argument("--resume", action="store_true", help="continue the sweep in --out")
    sweep.add_argument("--dry-run", action="store_true", help="list the points and start nothing")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the user's mistake, 1 if a trial failed."""
    arguments = build_parser().parse_args(words)
    try:
        space = space_file.load(arguments.space)
        for name in ("max_concurrent", "gpus_per_trial"):
            value = getattr(arguments, name)
            if value is not None and value < 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}, expected at least 0")
            if value is not None:
                setattr(space, name, value)
        if arguments.dry_run:
            for point in space.points():
                print(point.id, *point.words())
            return DONE
        from tune.sweep import sweep

        rows = sweep(space, arguments.data, arguments.out, address=arguments.address, resume=arguments.resume)
    except Exception as error:
        if not is_mistake(error):
            raise
        return report(error)
    return FAILED if any(row["status"] == "failed" for row in rows) else DONE


if __name__ == "__main__":
    sys.exit(main())
