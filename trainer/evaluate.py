"""Evaluation by full ranking: the function that training uses, and `python -m trainer evaluate RUN`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from mealrec import metrics
from shards import Index
from trainer import dist, options, rundir, weights
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.inputs import Inputs

Batch = dict[str, torch.Tensor]
Metrics = dict[str, Any]


def evaluate(
    model: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    batches: Iterable[Batch],
    inputs: Inputs,
    config: RunConfig,
    sampler_steps: int,
) -> Metrics:
    """hr@K, ndcg@K, mrr over all users of all ranks, and how many they are.

    Sums over users are float64 and are reduced over ranks once, at the end, so that ranks and batches change
    nothing.

    Args:
        model: a MealRec or the engine around one; called with `task="rank"` in evaluation mode, left as it
            was.
        batches: `inputs.eval_stream` of a split.
        sampler_steps: of the reverse chains; 0: the full chain.
    """
    settings = config.eval
    sums: dict[str, torch.Tensor] = {}
    training, _ = model.training, model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                batch = inputs.prepare(batch, config.seed)
                greater, equal = model(
                    batch,
                    task="rank",
                    mask_history=settings.mask_history,
                    chunk=settings.chunk,
                    sampler_steps=sampler_steps,
                )
                add(sums, metrics.rank_sums(greater, equal, batch["weight"], inputs.index.videos))
    finally:
        model.train(training)
    return finish(sums)


def guards(
    model: Callable[..., dict[str, torch.Tensor]],
    batches: Iterable[Batch],
    inputs: Inputs,
    seed: int,
) -> dict[str, float]:
    """`mealrec.guards` of this rank's first batch: whether the denoisers use what they are told, and the
    spread of contents and preferences.
    """
    training, _ = model.training, model.eval()
    try:
        found = model(inputs.prepare(next(iter(batches)), seed), task="guards")
    finally:
        model.train(training)
    return {name: round(float(value), 4) for name, value in found.items()}


def evaluate_popularity(
    train_counts: torch.Tensor,
    batches: Iterable[Batch],
    videos: int,
    *,
    mask_history: bool,
    device: torch.device | str = "cpu",
) -> Metrics:
    """The same protocol with a video's training count as its score for everybody: the floor of a result.

    Args:
        train_counts: int64 [I+1], row 0 the padding.
        device: where the sums are reduced over ranks.
    """
    sums: dict[str, torch.Tensor] = {}
    ascending = train_counts[1:].sort().values
    for batch in batches:
        own = train_counts[batch["target"]]
        greater = videos - torch.searchsorted(ascending, own, right=True)
        equal = videos - greater - torch.searchsorted(ascending, own) - 1
        if mask_history:
            # Videos of the history leave the ranking, each once, the target itself never.
            seen = torch.unique(torch.stack([batch["history_row"], batch["history"]]), dim=1)
            seen = seen[:, seen[1] != batch["target"][seen[0]]]
            count = train_counts[seen[1]]
            greater.index_add_(0, seen[0], -(count > own[seen[0]]).long())
            equal.index_add_(0, seen[0], -(count == own[seen[0]]).long())
        add(sums, metrics.rank_sums(greater, equal.clamp_min(0), batch["weight"], videos))
    return finish({name: value.to(device) for name, value in sums.items()})


def add(sums: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> None:
    """Add float64 sums by name, in place."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def finish(sums: dict[str, torch.Tensor]) -> Metrics:
    """Reduce the sums over ranks, once, and divide."""
    total = dist.all_reduce_sum(torch.stack(list(sums.values())))
    return metrics.finish(dict(zip(sums, total.cpu(), strict=True)))


def main(argv: Sequence[str]) -> int:
    """`python -m trainer evaluate RUN`: plain PyTorch in one process. Prints one JSON object.

    Raises:
        UserError, DataError: a mistake in the arguments, the run or the data.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainer evaluate",
        description="Rank all videos for every user of a split with a run's best weights.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--data", metavar="DIR", help="data set (default: the run's own)")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    parser.add_argument(
        "--no-mask-history", action="store_true", help="leave videos that the user has seen in the ranking"
    )
    parser.add_argument(
        "--sampler_steps", type=int, metavar="N", help="steps of the reverse chains; 0: the full chain"
    )
    arguments = parser.parse_args(list(argv))
    config, loaded = open_run(arguments.run, arguments.data)
    settings = config.eval
    if arguments.no_mask_history:
        settings.mask_history = False
    default_steps = settings.test_sampler_steps if arguments.split == "test" else settings.valid_sampler_steps
    steps = default_steps if arguments.sampler_steps is None else arguments.sampler_steps

    world = single_world()
    inputs = open_inputs(config, loaded, world)
    stream = inputs.eval_stream(arguments.split, settings)
    if not stream.users:
        raise UserError(f"{config.data.path}: nobody to evaluate in the {arguments.split} split")
    model = inputs.build_model(config.seed).to(world.device)
    weights.load_into(model, loaded.state)
    result = evaluate(model, stream, inputs, config, steps)
    facts = {
        "split": arguments.split,
        "step": loaded.facts["progress"]["step"],
        "fingerprint": inputs.index.fingerprint,
    }
    print(json.dumps({**result, **facts}, indent=2))
    return 0


def open_run(run: str, data: str | None) -> tuple[RunConfig, weights.Weights]:
    """A run's configuration, with another data set where `data` names one, and its best weights."""
    loaded = weights.load(run)
    config = options.load(Path(run) / rundir.CONFIG)
    config.run.dir = run
    if data:
        config.data.path = data
    return config, loaded


def open_inputs(config: RunConfig, loaded: weights.Weights, world: dist.World) -> Inputs:
    """The data set, checked to be one that the weights can rank: the same videos, in the same order."""
    inputs = Inputs(config.data, loaded.model_config, world)
    same = inputs.index.fingerprint == loaded.facts["fingerprint"]
    if not same and [*inputs.index.item_ids()] != weights.original_ids(config.run.dir).tolist():
        raise UserError(
            f"{config.data.path} has other videos than the data of {config.run.dir}:"
            " train on it with --init_from"
        )
    return inputs


def single_world() -> dist.World:
    """One process, on the first GPU where there is one."""
    return dist.World(device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


def oracle(index: Index, split: str) -> Metrics | None:
    """What an oracle reaches who knows how the world was made; None for data that nobody made."""
    if index.oracle_file is None:
        return None
    return rundir.read_json(index.local(index.oracle_file)).get(split)
