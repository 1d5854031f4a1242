"""`python -m trainer report RUN [RUN ...] --out FILE`: one page about one or several runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer import files
from trainer.errors import DONE, UserError, is_mistake, line_of
from trainer.report.comparison import Comparison
from trainer.report.page import plotly_source, render
from trainer.report.pictures import Pictures
from trainer.report.recommended import Recommended, recommend
from trainer.report.run_facts import RunFacts, read_runs
from trainer.report.sections import sections


def main(argv: Sequence[str]) -> int:
    """Run the command: plain PyTorch in one process.

    Raises:
        UserError, DataError: a mistake in the arguments, a run or the pictures.
    """
    arguments = _parser().parse_args(list(argv))
    out = Path(arguments.out)
    _check_out(out)
    script = plotly_source()
    runs = read_runs(arguments.runs, arguments.split)
    pictures = Pictures(arguments.frames, out) if arguments.frames else None
    comparison = Comparison(runs, arguments.split)
    for number, run in enumerate(runs):
        ranked = _recommend(run, arguments.split, arguments.data, pictures)
        if isinstance(ranked, Recommended):
            comparison.recommended[number] = ranked
        else:
            comparison.unranked[number] = ranked
    if pictures is not None:
        comparison.pictures.update(_read(pictures, comparison, arguments.frames))
    page = render(comparison.names, arguments.split, sections(comparison), script)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    files.write_text(out, page)
    print(f"wrote {out}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {len(page.encode()) / 1e6:.1f} MB")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer report",
        description="One page about one or several runs, which needs no network: learning curves, metrics"
        " with intervals, groups of users, recommended videos, what TCD and NPD do, and cost. The first run"
        " is the one that the others are compared with.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .html file")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="test", help="whose users (default: test)"
    )
    parser.add_argument("--data", metavar="DIR", help="data set (default: each run's own)")
    parser.add_argument(
        "--frames",
        metavar="DIR",
        help="the videos or pictures that the features were made of, to show frames beside their weights",
    )
    return parser


def _check_out(out: Path) -> None:
    if out.suffix != ".html":
        raise UserError(f"--out {out}: expected a name that ends in .html")
    if out.exists():
        raise UserError(f"--out {out} exists already")


def _recommend(run: RunFacts, split: str, data: str | None, pictures: Pictures | None) -> Recommended | str:
    """What a run recommends, or why that is not known: the rest of the page needs no weights and no data."""
    print(f"{run.path}: ranking the users of the {split} split", file=sys.stderr, flush=True)
    try:
        return recommend(run.path, split, data, pictures.ids if pictures else None)
    except Exception as error:
        if not is_mistake(error):
            raise
        return line_of(error)


def _read(pictures: Pictures, comparison: Comparison, folder: str) -> dict[str, list[str]]:
    wanted = {
        weights.id: len(weights.mean)
        for ranked in comparison.recommended.values()
        for weights in ranked.frames
    }
    read = pictures.read(wanted.items())
    if len(read) < len(wanted):
        less = f"{len(wanted) - len(read)} of {len(wanted)} videos have no pictures"
        print(f"--frames {folder}: {less}: not readable, or another number of frames", file=sys.stderr)
    return read
