"""Counters of a batch's random numbers, for its positions and frames, and dropout drawn with them [ours]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mealrec.batch import Batch
from mealrec.ops import Counters, RandomStream, dropout


@dataclass(frozen=True)
class Noise:
    """From which the counters of a batch's random numbers are made.

    seed, step: int64 scalars; sample_id_B: int64 [B]; position_BL: int64 [B, L], counted from the user's
    oldest kept item; frames: M of the data set (1 without features), the stride of a position's rows.
    """

    seed: torch.Tensor
    step: torch.Tensor
    sample_id_B: torch.Tensor
    position_BL: torch.Tensor
    frames: int
    kernel: str = "auto"

    @staticmethod
    def of_batch(batch: Batch, frames: int, kernel: str) -> Noise:
        """From the batch's fields; `seed` and `global_step` default to 0, `offset` to the first column."""
        item = batch["item"]
        zero = torch.zeros((), dtype=torch.int64, device=item.device)
        columns = torch.arange(item.shape[1], device=item.device)
        offset = batch.get("offset", torch.zeros_like(batch["sample_id"]))
        return Noise(
            batch.get("seed", zero),
            batch.get("global_step", zero),
            batch["sample_id"],
            offset[:, None] + columns,
            max(frames, 1),
            kernel,
        )

    def at_columns(self, column_B: torch.Tensor) -> Noise:
        """The same rows at one column each."""
        return replace(self, position_BL=self.position_BL.gather(1, column_B[:, None]))

    def at_positions(self, index_N: torch.Tensor) -> Noise:
        """Some of the positions only: their indices row by row, int64 [N]."""
        row_N = index_N // self.position_BL.shape[1]
        position_N1 = self.position_BL.flatten()[index_N][:, None]
        return replace(self, sample_id_B=self.sample_id_B[row_N], position_BL=position_N1)

    def at_step(self, step: int) -> Noise:
        """The same positions at another step: evaluation counts the steps of the reverse chain."""
        return replace(self, step=torch.full_like(self.step, step))

    def counters(self, frames: int = 1) -> Counters:
        """Counters of `frames` rows for each position, [B*L*frames]; `row = position * M + frame`."""
        row = self.position_BL[..., None] * self.frames + torch.arange(frames, device=self.position_BL.device)
        sample_id = self.sample_id_B[:, None, None].expand(row.shape)
        return Counters(self.seed, self.step, sample_id.reshape(-1), row.reshape(-1))


class Dropout:
    """Dropout of a backbone's sites, drawn with the batch's counters; `p` is 0 in evaluation."""

    def __init__(self, noise: Noise, p: float):
        self.counters = noise.counters()
        self.p = p
        self.kernel = noise.kernel

    def __call__(
        self, x_BLD: torch.Tensor, site: int, residual_BLD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`residual + dropout(x)`; each `site` has a random stream of its own."""
        flat = x_BLD.flatten(0, 1)
        residual = None
        if residual_BLD is not None:
            residual = residual_BLD.flatten(0, 1)
            flat = flat.to(residual.dtype)  # under autocast a branch has a narrower dtype than its residual
        stream = RandomStream.DROPOUT + site
        out = dropout(flat, self.p, self.counters, stream, residual_RD=residual, kernel=self.kernel)
        return out.view_as(x_BLD)
