"""What an implementation of the operations provides; the modules `reference` and `fused` are the two."""

from __future__ import annotations

from typing import Protocol

import torch

from mealrec.ops.counters import Counters
from mealrec.ops.sampler import Sampler
from mealrec.ops.schedule import Schedule


class Implementation(Protocol):
    """The operations after their arguments are checked; `mealrec.ops` says what each one means."""

    def q_sample(
        self,
        x0_RD: torch.Tensor,
        t_R: torch.Tensor,
        schedule: Schedule,
        counters: Counters,
        stream: int,
        mask_R: torch.Tensor | None,
        row_R: torch.Tensor | None,
    ) -> torch.Tensor:
        """Corrupt rows to their step, [R, D]."""

    def corrupt(
        self,
        x0_RD: torch.Tensor,
        schedule: Schedule,
        counters: Counters,
        stream: int,
        step_stream: int,
        group: int,
        mask_R: torch.Tensor | None,
        row_R: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrupt rows to a drawn step, [R, D] and int64 [R]."""

    def reverse_step(
        self,
        x_RD: torch.Tensor,
        x0hat_RD: torch.Tensor,
        t_R: torch.Tensor,
        t_prev_R: torch.Tensor,
        schedule: Schedule,
        counters: Counters,
        stream: int,
        sampler: Sampler,
        null_RD: torch.Tensor | None,
        mask_R: torch.Tensor | None,
    ) -> torch.Tensor:
        """Go one step back in the chain, [R, D]."""

    def diffusion_loss(
        self,
        prediction_RD: torch.Tensor,
        target_RD: torch.Tensor,
        mask_R: torch.Tensor | None,
        row_R: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sum the rows' mean squared errors, a scalar."""

    def dropout(
        self,
        x_RD: torch.Tensor,
        p: float,
        counters: Counters,
        stream: int,
        residual_RD: torch.Tensor | None,
    ) -> torch.Tensor:
        """Drop elements and add the residual, [R, D]."""

    def softmax_terms_(
        self,
        logits_KN: torch.Tensor,
        score_N: torch.Tensor,
        own_N: torch.Tensor,
        bias_K: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make exponentials of the logits, in place; their columns' highest and sums, [N] each."""

    def count_above(self, score_KN: torch.Tensor, own_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the scores above each column's own and those equal to it, int64 [N] each."""

    def words(self, counters: Counters, columns: int, stream: int) -> torch.Tensor:
        """Draw random words, int64 [R, columns]."""

    def normal(self, counters: Counters, columns: int, stream: int) -> torch.Tensor:
        """Draw standard normals, float32 [R, columns]."""
