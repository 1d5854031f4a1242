"""A preference sampled as DreamRec samples it, in PyTorch eager: 500 guided steps of a chain from pure noise.

    python -m bench.contestants.chain VIDEOS LENGTH DIM

The form of arXiv 2310.20453, not its code: a transformer block reads the history, a one-hidden-layer network
that knows the step and the history predicts x0, with and without the history at each step, and the result is
scored with all videos. A row is a user whose 20 best videos are found.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from bench.contestants.rounds import Rounds

STEPS, GUIDANCE, ROWS = 500, 2.0, 256


class Chain(nn.Module):
    """History encoder, denoiser and item table, with random weights."""

    def __init__(self, videos: int, dim: int):
        super().__init__()
        self.item = nn.Embedding(videos + 1, dim)
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 4 * dim, batch_first=True)
        self.step = nn.Embedding(STEPS, dim)
        self.null = nn.Parameter(torch.zeros(dim))
        self.denoiser = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        beta = torch.linspace(1e-4, 2e-2, STEPS)
        self.abar = torch.cumprod(1 - beta, 0)
        self.beta = beta

    def forward(self, item_BL: torch.Tensor) -> torch.Tensor:
        """The 20 best videos of each user, int64 [B, 20]."""
        mask_LL = nn.Transformer.generate_square_subsequent_mask(item_BL.shape[1])
        c_BD = self.encoder(self.item(item_BL), mask_LL, is_causal=True)[:, -1]
        x_BD = torch.randn_like(c_BD)
        for t in reversed(range(STEPS)):
            step_BD = self.step.weight[t].expand_as(x_BD)
            given, blind = (
                self.denoiser(torch.cat([x_BD, condition, step_BD], 1))
                for condition in (c_BD, self.null.expand_as(c_BD))
            )
            x0_BD = (1 + GUIDANCE) * given - GUIDANCE * blind
            before = self.abar[t - 1] if t else torch.ones(())
            left = 1 - self.abar[t]
            mean = self.beta[t] * before.sqrt() / left * x0_BD
            mean = mean + (1 - before) * (1 - self.beta[t]).sqrt() / left * x_BD
            x_BD = mean + (self.beta[t] * (1 - before) / left).sqrt() * torch.randn_like(x_BD)
        return (x_BD @ self.item.weight.T).topk(20, dim=1).indices


def main() -> None:
    """Sample until the race is over."""
    videos, length, dim = map(int, sys.argv[1:])
    rounds = Rounds()
    torch.set_num_threads(1)
    model = Chain(videos, dim).eval()
    rounds.ready(objective=f"{STEPS} steps from noise, guided, then the 20 best of all videos")
    with torch.no_grad():
        while True:
            model(torch.randint(1, videos + 1, (ROWS, length)))
            rounds.done(ROWS)


if __name__ == "__main__":
    main()
