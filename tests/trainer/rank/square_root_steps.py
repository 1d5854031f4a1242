"""A rank that takes single steps of a model whose loss or gradient is not finite, in a real DeepSpeed engine.

    RANK=0 WORLD_SIZE=1 ... python square_root_steps.py '{"NAME": [WEIGHT, [[TARGET, ...], ...], ZERO, SKIP]}'

Each case takes a step for each list of targets, until one fails; SKIP leaves batches out instead. Prints one
JSON object: for each case its failure (or null), and the weight after it.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

from trainer import distributed
from trainer.batching import Batching
from trainer.config import TrainConfig
from trainer.ds_config import derive
from trainer.rank import engine
from trainer.rank.nonfinite import NonFiniteError
from trainer.rank.step import TrainStep


class SquareRoot(nn.Module):
    """The loss of a row is sqrt(weight - target): finite at 0, where its gradient is not."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"rec": (self.weight - batch["target"].float()).sqrt().sum()}

    def counts(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"rec": torch.tensor(float(batch["target"].numel()), dtype=torch.float64)}

    def objective(self, losses: dict[str, torch.Tensor], counts: dict[str, torch.Tensor]) -> torch.Tensor:
        return losses["rec"] / counts["rec"].to(losses["rec"].dtype)


def take_steps(
    world: distributed.World, weight: float, batches: list[list[int]], stage: int, skip: bool
) -> tuple[str | None, float]:
    """Take the steps; returns the first failure and the weight at the end."""
    train = TrainConfig(batch_size=2, lr=0.5, tensorboard=False, zero_stage=stage)
    model = SquareRoot(weight)
    step = TrainStep(
        engine.build(model, train, derive(train, Batching(2, 2, 1, 1), precision="fp32")),
        world,
        on_device=lambda batch, step: batch,
        learning_rates=None,
        may_skip=lambda: skip,
    )
    failure = None
    try:
        for targets in batches:
            target = torch.tensor(targets)[:, None]
            batch = {
                "sample_id": torch.arange(len(targets)) + 10,
                "item": torch.ones_like(target),
                "target": target,
                "weight": torch.ones(len(targets)),
            }
            step([batch], epoch=0, step=3)
    except NonFiniteError as error:
        failure = str(error)
    return failure, float(model.weight)


def main() -> None:
    world = distributed.init()
    print(json.dumps({name: take_steps(world, *case) for name, case in json.loads(sys.argv[1]).items()}))
    distributed.shutdown()


if __name__ == "__main__":
    main()
