"""MealRec as a run trains and evaluates it: its stream, its step, its ranking.

    python -m bench.contestants.ours train|plain|evaluate OPTIONS...      # options of `./launch.sh`

A row in training is a target, in evaluation a user whose target is ranked among all videos. `plain` is the
same step in plain PyTorch: the same batches, losses, AdamW and clipping.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from bench.contestants.rounds import Rounds


def main() -> None:
    """Train or evaluate as the arguments say."""
    task, arguments = sys.argv[1], sys.argv[2:]
    rounds = Rounds()
    import torch

    from trainer import cpu, options, prepare

    cpu.settle()  # as every process of a run does
    torch.set_num_threads(1)
    config = options.parse(arguments)
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    if task == "evaluate":
        evaluate(rounds, config)
    else:
        train(rounds, config, batching, plain=task == "plain")


def train(rounds: Rounds, config: Any, batching: Any, plain: bool) -> None:
    """Epoch after epoch, until the race is over."""
    from trainer import distributed
    from trainer.inputs import Inputs

    choose_port()
    world = distributed.World() if plain else distributed.init()
    inputs = Inputs(config.data, config.model, world, config.seed)
    stream = inputs.train_stream(batching)
    step = (plain_step if plain else deepspeed_step)(config, batching, inputs)
    rounds.ready(objective=objective(inputs.model, batching))
    number = itertools.count()
    for epoch in itertools.count():
        for micro_batches in rounds.over(stream.epoch(epoch), targets):
            step(micro_batches, epoch, next(number))


def deepspeed_step(config: Any, batching: Any, inputs: Any) -> Callable[..., object]:
    """The step of a run."""
    from trainer import ds_config
    from trainer.rank import engine
    from trainer.rank.step import TrainStep

    on_gpu = inputs.world.on_gpu
    settings = ds_config.engine_config(config, batching, on_gpu=on_gpu, has_bf16=on_gpu, run_dir=None)
    built = engine.build(inputs.build_model(), config.train, settings)
    return TrainStep(
        built,
        inputs.world,
        on_device=inputs.on_device,
        learning_rates=lambda step: engine.learning_rates(step, 10**6, config.train),
    )


def plain_step(config: Any, batching: Any, inputs: Any) -> Callable[..., object]:
    """The same in plain PyTorch; returns the loss."""
    import torch

    from trainer.rank import engine

    model = inputs.build_model()
    groups = engine.parameter_groups(model, config.train)
    optimizer = torch.optim.AdamW(groups, lr=config.train.lr, fused=True)

    def step(micro_batches: list[Any], epoch: int, number: int) -> float:
        rates = engine.learning_rates(number, 10**6, config.train)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        batches = [inputs.on_device(batch, number) for batch in micro_batches]
        each = [model.counts(batch) for batch in batches]
        counts = {name: sum(count[name] for count in each) for name in each[0]}
        total = 0.0
        for batch in batches:
            loss = model.objective(model(batch), counts)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def evaluate(rounds: Rounds, config: Any) -> None:
    """The test users again and again, until the race is over."""
    from trainer.evaluation.evaluate import evaluate as rank_users
    from trainer.evaluation.run import single_world
    from trainer.inputs import Inputs

    inputs = Inputs(config.data, config.model, single_world(), config.seed)
    model, stream = inputs.build_model(), inputs.eval_stream("test", config.eval)
    rounds.ready(objective="rank of the target among all unseen videos")
    while True:
        counted = rounds.over(stream, lambda batch: int(batch["weight"].sum()))
        rank_users(model, counted, inputs, config.eval, config.eval.test_sampler_steps)


def targets(micro_batches: list[Any]) -> int:
    """Targets of a global batch."""
    return sum(int((batch["target"] > 0).sum()) for batch in micro_batches)


def objective(model: Any, batching: Any) -> str:
    """What is trained, as a phrase."""
    softmax = f"{model.objective.negatives} negatives" if model.samples_negatives else "full softmax"
    modules = [name for name, there in (("TCD", model.has_tcd), ("NPD", model.npd.enabled)) if there]
    return ", ".join([softmax, *modules, f"batches of {batching.batch_size} windows of {model.max_length}"])


def choose_port() -> None:
    """Choose a free port for the process group: several contestants have one each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])


if __name__ == "__main__":
    main()
