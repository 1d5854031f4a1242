"""What the races have in common: their command line, their contestants, their table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants import Contestant, Entry
from bench.data import data_set
from bench.report import RESULTS, Report
from bench.timing import Spread, ratio
from trainer import options
from trainer.config import RunConfig

NO_DIFFUSION = ("--model.tcd.enabled", "false", "--model.npd.enabled", "false")
BACKBONE = (*NO_DIFFUSION, "--model.use_video", "false")
FULL_SOFTMAX = ("--model.objective.softmax", "full")
SAMPLED_SOFTMAX = ("--model.objective.softmax", "sampled")


def arguments(name: str, doc: str, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The parser of `python -m bench.NAME`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Options of ./launch.sh may follow after --, for all of ours.",
    )
    parser.add_argument("--data", type=Path, help="data set directory (default: the synthetic world)")
    parser.add_argument("--preset", default="default", help="of ./launch.sh (default: default)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each (default: {rounds})")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help=f"core-seconds of a turn, at least (default: {seconds})",
    )
    parser.add_argument("--out", type=Path, help=f"the CSV (default: bench/results/{name}-DATA.csv)")
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The command line, and the options of ours in it."""
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    settings, after = parser.parse_args(argv[:at]), argv[at + 1 :]
    settings.data = data_set(settings.data)
    name = parser.prog.rpartition(".")[2]
    settings.out = settings.out or RESULTS / f"{name}-{settings.data.name}.csv"
    ours = ("--preset", settings.preset, "--data", str(settings.data), "--train.tensorboard", "false")
    return settings, (*ours, *after)


def peers(task: str, events: Path, config: RunConfig) -> list[Entry]:
    """RecBole, RecTools and, in training, RePlay, at the length and width of ours."""
    size = (str(events), str(config.data.max_length), str(config.model.dim))
    names = {"recbole": "RecBole", "rectools": "RecTools"} | ({"replay": "RePlay"} if task == "train" else {})
    return [Entry(f"{name} SASRec", module, (task, *size), module) for module, name in names.items()]


def config_of(ours: Sequence[str]) -> RunConfig:
    """The configuration that our options make."""
    return options.parse(list(ours))


def add_rates(
    report: Report,
    contestants: dict[str, Contestant],
    rates: dict[str, list[float]],
    base: str,
    unit: str,
) -> dict[str, Spread]:
    """A row for each contestant: its rate, and how many times faster `base` is. Returns these ratios."""
    ratios = {name: ratio(rates[base], values) for name, values in rates.items()}
    for name, contestant in contestants.items():
        spread, times = Spread.of(rates[name]), ratios[name]
        report.add(
            contestant=name,
            **{f"{unit}/core-s": spread.median, "lowest": spread.lowest, "highest": spread.highest},
            **{f"{base} is x": times.median, "least x": times.lowest, "most x": times.highest},
            objective=contestant.about["objective"],
        )
    return ratios


def median_or_none(ratios: dict[str, Spread], name: str) -> float | None:
    """The median ratio to a contestant, where it took part."""
    return ratios[name].median if name in ratios else None
