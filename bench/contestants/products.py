"""The matrix products of a training step, and nothing else: no implementation of the step can be faster.

    python -m bench.contestants.products OPTIONS...      # options of `./launch.sh`

SASRec with the full softmax, forward and backward, at the shapes of the run's own batches: the layers at real
positions, attention at the padded ones, the softmax in blocks that stay in a core's cache. A row is a target.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch

from bench.contestants.ours import targets
from bench.contestants.rounds import Rounds

BLOCK_ELEMENTS = 1 << 19  # scores at once


def main() -> None:
    """Multiply until the race is over."""
    rounds = Rounds()
    from trainer import cpu, options, prepare
    from trainer.distributed import World
    from trainer.inputs import Inputs

    cpu.settle()
    torch.set_num_threads(1)
    config = options.parse(sys.argv[1:])
    _, batching = prepare.check_run(config, world_size=1, on_gpu=False)
    inputs = Inputs(config.data, config.model, World(), config.seed)
    stream = inputs.train_stream(batching)
    products = Products(inputs.model, batching.micro_batch_size)
    rounds.ready(objective="forward and backward, no other operation")
    for epoch in itertools.count():
        for micro_batches in rounds.over(stream.epoch(epoch), targets):
            for batch in micro_batches:
                item = batch["item"]
                products(*item.shape, int((item > 0).sum()), int((batch["target"] > 0).sum()))


class Products:
    """All matrix products of a micro-batch. Values are random; buffers are made once."""

    def __init__(self, model: Any, rows: int):
        self.heads, self.layers, D = model.backbone.heads, model.backbone.layers, model.dim
        cells = rows * model.max_length
        self.shapes = [(D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)]
        self.weights = [torch.randn(outs, ins) for ins, outs in self.shapes]
        self.weight_grads = [torch.empty_like(weight) for weight in self.weights]
        self.x, self.y, self.z = (torch.randn(cells, 4 * D) for _ in range(3))
        self.table, self.table_grad = torch.randn(model.videos, D), torch.zeros(model.videos, D)
        self.block = max(64, BLOCK_ELEMENTS // model.videos)
        self.scores = torch.empty(self.block, model.videos)
        self.u, self.u_grad = torch.randn(cells, D), torch.empty(cells, D)

    def __call__(self, B: int, L: int, positions: int, targets: int) -> None:
        """Multiply for a micro-batch `[B, L]` with so many real positions and targets."""
        for _ in range(self.layers):
            self.linear_layers(positions)
            self.attention(B, L)
        self.softmax(targets)

    def linear_layers(self, N: int) -> None:
        """Forward, and the gradients of inputs and weights."""
        for (ins, outs), weight, grad in zip(self.shapes, self.weights, self.weight_grads, strict=True):
            x, y, z = (
                buffer.view(-1)[: N * width].view(N, width)
                for buffer, width in ((self.x, ins), (self.y, outs), (self.z, ins))
            )
            torch.mm(x, weight.T, out=y)
            torch.mm(y, weight, out=z)
            torch.mm(y.T, x, out=grad)

    def attention(self, B: int, L: int) -> None:
        """Scores and values: two products forward, four backward."""
        width = self.u.shape[1] // self.heads
        vectors = self.x.view(-1)[: B * self.heads * L * width].view(B * self.heads, L, width)
        scores = torch.bmm(vectors, vectors.transpose(1, 2))
        torch.bmm(scores, vectors)
        torch.bmm(vectors, vectors.transpose(1, 2))
        for left in (scores, scores.transpose(1, 2), scores.transpose(1, 2)):
            torch.bmm(left, vectors)

    def softmax(self, N: int) -> None:
        """Scores of all videos, and the gradients of preferences and table."""
        for start in range(0, N, self.block):
            part = slice(start, min(start + self.block, N))
            u, scores = self.u[part], self.scores[: part.stop - start]
            torch.mm(u, self.table.T, out=scores)
            torch.mm(scores, self.table, out=self.u_grad[part])
            self.table_grad.addmm_(scores.T, u)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
