"""`python -m tune`: sweeps of the trainer's options and the paper's studies, on Ray Tune."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import DONE, FAILED, UserError, is_mistake, report
from tune import space as space_file
from tune.studies import SEEDS, STUDIES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tune",
        description="Sweeps of the trainer's options and the paper's studies, here or on a Ray cluster.",
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
    studies = commands.add_parser(
        "study",
        help="the paper's studies: table and figure",
        description="The paper's studies: each writes its table and its figure.",
    ).add_subparsers(dest="study", required=True)
    for name, make in STUDIES.items():
        one = studies.add_parser(
            name,
            help=" ".join(make.__doc__.split("\n\n")[0].split()),
            description=make.__doc__,
            epilog="Finished runs are kept. After `--` come the trainer's options for all runs.",
        )
        one.add_argument(
            "--data", nargs="+", type=Path, default=[], help="data sets (default: the synthetic world)"
        )
        one.add_argument("--out", type=Path, default=Path("runs/studies"), help="default: runs/studies")
        one.add_argument("--preset", default="study", help="starting values of every run (default: study)")
        one.add_argument("--seeds", type=int, default=SEEDS[name], help="default: %(default)s")
        one.add_argument("--quick", action="store_true", help="a small grid, minutes on two cores")
        one.add_argument("--max-concurrent", type=int, default=0, help="runs at once (default: as fit)")
        one.add_argument("--gpus-per-trial", type=int, default=0, help="GPUs of a run, a rank on each")
        one.add_argument("--address", help="a Ray cluster's address, or auto for the one that runs here")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the user's mistake, 1 if a trial failed."""
    words = list(sys.argv[1:] if words is None else words)
    split = words.index("--") if "--" in words else len(words)
    arguments, more = build_parser().parse_args(words[:split]), words[split + 1 :]
    try:
        if arguments.command == "study":
            return run_study(arguments, overrides(more))
        if more:
            raise UserError(f"options after -- ({more[0]} ...) are for studies: a sweep has `fixed:`")
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


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """The trainer's options as dotted names and values. Raises UserError where they are not pairs."""
    names, values = words[::2], words[1::2]
    for name, value in zip_longest(names, values):
        if not name.startswith("--") or value is None:
            raise UserError(f"after --: found {name!r}, expected `--NAME VALUE`")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(names, values, strict=True)}


def run_study(arguments: argparse.Namespace, more: dict[str, Any]) -> int:
    from tune.study import Study, study

    if arguments.seeds < 1:
        raise UserError(f"--seeds is {arguments.seeds}, expected at least 1")
    whole = study(
        Study(
            name=arguments.study,
            out=arguments.out,
            seeds=arguments.seeds,
            quick=arguments.quick,
            fixed=space_file.check_fixed({"preset": arguments.preset, **more}),
            max_concurrent=arguments.max_concurrent,
            gpus_per_trial=arguments.gpus_per_trial,
            address=arguments.address,
        ),
        arguments.data,
    )
    return DONE if whole else FAILED


if __name__ == "__main__":
    sys.exit(main())
