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
from tune import space as space_module
from tune.designs import DESIGNS, SEEDS
from tune.space import load_space, parse_fixed


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of `python -m tune`."""
    parser = argparse.ArgumentParser(
        prog="python -m tune",
        description="Sweeps of the trainer's options and the paper's studies, here or on a Ray cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser(
        "sweep",
        help="try the points of SPACE.yaml",
        description=space_module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("space", metavar="SPACE.yaml", type=Path)
    sweep.add_argument("--data", required=True, type=Path, help="data set, made by `python -m shards`")
    sweep.add_argument(
        "--out", required=True, type=Path, help="directory of runs, results.csv and the ledger"
    )
    sweep.add_argument(
        "--max-concurrent", type=int, help="trials at once (default: as in SPACE.yaml, or as many as fit)"
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
    for name, design in DESIGNS.items():
        study = studies.add_parser(
            name,
            help=(design.__doc__ or "").split("\n")[0],
            description=design.__doc__,
            epilog="Finished runs are kept. After `--` come the trainer's options for all runs.",
        )
        study.add_argument(
            "--data", nargs="+", type=Path, default=[], help="data sets (default: the synthetic world)"
        )
        study.add_argument("--out", type=Path, default=Path("runs/studies"), help="default: runs/studies")
        study.add_argument("--preset", default="study", help="starting values of every run (default: study)")
        study.add_argument("--seeds", type=int, default=SEEDS[name], help="default: %(default)s")
        study.add_argument("--quick", action="store_true", help="a small grid, minutes on two cores")
        study.add_argument(
            "--finished-only", action="store_true", help="train nothing: tables of the runs that are finished"
        )
        study.add_argument(
            "--max-concurrent", type=int, default=0, help="runs at once (default: as many as fit)"
        )
        study.add_argument("--gpus-per-trial", type=int, default=0, help="GPUs of a run, a rank on each")
        study.add_argument("--address", help="a Ray cluster's address, or auto for the one that runs here")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 when done, 1 if a trial failed, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    settings, more = build_parser().parse_args(arguments[:split]), arguments[split + 1 :]
    try:
        return run_study(settings, more) if settings.command == "study" else run_sweep(settings, more)
    except Exception as error:
        if not is_mistake(error):
            raise
        return report(error)


def run_sweep(settings: argparse.Namespace, more: Sequence[str]) -> int:
    """Run `sweep`, or with --dry-run list its points."""
    if more:
        raise UserError(f"options after -- ({more[0]} ...) are for studies: a sweep has `fixed:`")
    space = load_space(settings.space)
    for name in ("max_concurrent", "gpus_per_trial"):
        value = getattr(settings, name)
        if value is not None and value < 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}, expected at least 0")
        if value is not None:
            setattr(space, name, value)
    if settings.dry_run:
        for point in space.points():
            print(point.id, *point.arguments())
        return DONE
    from tune.sweep import sweep  # here, so that --help needs no torch

    rows = sweep(space, settings.data, settings.out, address=settings.address, resume=settings.resume)
    return FAILED if any(row["status"] == "failed" for row in rows) else DONE


def run_study(settings: argparse.Namespace, more: Sequence[str]) -> int:
    """Run `study`."""
    from tune import study  # here, so that --help needs no torch

    overrides = parse_overrides(more)
    if settings.seeds < 1:
        raise UserError(f"--seeds is {settings.seeds}, expected at least 1")
    finished = study.run_study(
        study.Study(
            name=settings.study,
            out=settings.out,
            seeds=settings.seeds,
            quick=settings.quick,
            fixed=parse_fixed({"preset": settings.preset, **overrides}),
            max_concurrent=settings.max_concurrent,
            gpus_per_trial=settings.gpus_per_trial,
            address=settings.address,
            train=not settings.finished_only,
        ),
        settings.data,
    )
    return DONE if finished else FAILED


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse `--NAME VALUE ...` as dotted names and YAML values.

    Raises:
        UserError: not pairs of a name and a value.
    """
    names, values = arguments[::2], arguments[1::2]
    for name, value in zip_longest(names, values):
        if not name.startswith("--") or value is None:
            raise UserError(f"after --: found {name!r}, expected `--NAME VALUE`")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(names, values, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
