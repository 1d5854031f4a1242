"""`python -m trainer evaluate RUN`: a run's best weights, alone or with other runs', on a split."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mealrec import MealRec
from trainer import run_directory
from trainer.config import RunConfig
from trainer.errors import DONE, UserError
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.fusion import Fusion
from trainer.evaluation.ranks import Collector, Facts
from trainer.evaluation.run import open_inputs, open_run, single_world
from trainer.evaluation.weights import Weights
from trainer.inputs import Inputs


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how.

    fuse: runs whose scores are added; data: a data set other than the run's own; sampler_steps: None: as the
    run's configuration says; noise: standard deviations added to the frame features, None: as configured;
    ranks: the file of ranks, None: the run's own, where this is the evaluation that a run ends with.
    """

    run: str
    fuse: tuple[str, ...] = ()
    data: str | None = None
    split: str = "test"
    mask_history: bool = True
    sampler_steps: int | None = None
    noise: float | None = None
    ranks: str | None = None


def main(argv: Sequence[str]) -> int:
    """Run the command: plain PyTorch in one process. Prints one JSON object.

    Raises:
        UserError, DataError: a mistake in the arguments, a run or the data.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainer evaluate",
        description="Rank all videos for every user of a split with a run's best weights.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--fuse",
        nargs="+",
        default=[],
        metavar="RUN2",
        help="add the log-softmax scores of these runs, which must know the same videos (late fusion)",
    )
    parser.add_argument("--data", metavar="DIR", help="data set (default: the run's own)")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    parser.add_argument(
        "--no-mask-history", action="store_true", help="leave videos that the user has seen in the ranking"
    )
    parser.add_argument(
        "--sampler_steps", type=int, metavar="N", help="steps of the reverse chains; 0: the full chain"
    )
    parser.add_argument(
        "--noise", type=float, metavar="SIGMA", help="add noise of SIGMA standard deviations to the features"
    )
    parser.add_argument(
        "--ranks",
        metavar="FILE",
        help="write the rank of each user's target there, as Parquet (default: into RUN, where this is the"
        " evaluation that a run ends with)",
    )
    arguments = parser.parse_args(list(argv))
    request = Request(
        run=arguments.run,
        fuse=tuple(arguments.fuse),
        data=arguments.data,
        split=arguments.split,
        mask_history=not arguments.no_mask_history,
        sampler_steps=arguments.sampler_steps,
        noise=arguments.noise,
        ranks=arguments.ranks,
    )
    print(json.dumps(evaluate_run(request), indent=2), flush=True)
    return DONE


def evaluate_run(request: Request) -> dict[str, Any]:
    """Evaluate, write the file of ranks, and return the metrics with what they are of.

    Raises:
        UserError, DataError: a mistake in the request, a run or the data.
    """
    runs = _open(request)
    config, best, inputs, model = runs[0]
    settings, index = config.eval, inputs.index
    at_end = Facts(
        best.facts.fingerprint,
        request.split,
        step=best.facts.progress["step"],
        mask_history=settings.mask_history,
        sampler_steps=settings.test_sampler_steps,
        noise=best.model_config.feature_noise,
    )
    steps = settings.test_sampler_steps if request.split == "test" else settings.valid_sampler_steps
    facts = replace(
        at_end,
        fingerprint=index.fingerprint,
        mask_history=settings.mask_history and request.mask_history,
        sampler_steps=steps if request.sampler_steps is None else request.sampler_steps,
        models=len(runs),
        noise=inputs.model.feature_noise,
    )
    # Any of them that reads frames reads for all: the others take no notice.
    reader = next((run.inputs for run in runs if run.inputs.table is not None), inputs)
    settings.mask_history = facts.mask_history
    stream = reader.eval_stream(request.split, settings)
    if not stream.users:
        raise UserError(f"{index.path}: no users to evaluate in the {request.split} split")
    ranker = Fusion([run.model for run in runs], [run.config.seed for run in runs]) if request.fuse else model
    collector = Collector(index, reader.world.device, is_main=True)
    result = evaluate(ranker, stream, reader, settings, facts.sampler_steps, collector)
    if request.ranks is not None:
        collector.write(request.ranks, facts)
    elif facts == at_end:
        _keep(collector, run_directory.ranks(request.run, request.split), facts)
    about = {"split": request.split, "step": facts.step, "fingerprint": facts.fingerprint}
    return {**result, **about}


class _Opened(NamedTuple):
    """A run's best weights as a model, and the data set as that run reads it."""

    config: RunConfig
    best: Weights
    inputs: Inputs
    model: MealRec


def _open(request: Request) -> list[_Opened]:
    """Open the run, and those that are added, on the same data."""
    if request.noise is not None and not 0 <= request.noise < math.inf:
        raise UserError(f"--noise is {request.noise}, expected a number of at least 0")
    runs: list[_Opened] = []
    for name in (request.run, *request.fuse):
        config, best = open_run(name, runs[0].config.data.path if runs else request.data)
        if runs and config.data.max_length != runs[0].config.data.max_length:
            found, expected = config.data.max_length, runs[0].config.data.max_length
            raise UserError(
                f"--fuse {name}: found data.max_length {found}, expected {expected}, as in {request.run}"
            )
        inputs = open_inputs(config, best, single_world(), request.noise)
        runs.append(_Opened(config, best, inputs, best.model(inputs)))
    if request.noise is not None and not any(run.inputs.model.has_video for run in runs):
        raise UserError(f"--noise {request.noise}: {request.run} reads no frames")
    return runs


def _keep(collector: Collector, path: Path, facts: Facts) -> None:
    """Write a run's own file of ranks. Where it cannot be written the run may still be read."""
    try:
        collector.write(path, facts)
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
