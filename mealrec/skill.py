"""Skill [ours]: how much better a denoiser is than one that changes nothing, and than a linear map.

Legend: R rows (frames of videos, or positions), D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

LEVELS = ("low", "middle", "high")


class Skill(NamedTuple):
    """`1 - L / L_other`, float32 scalars: 1 is a perfect denoiser, 0 one that is as good as the other."""

    over_identity: torch.Tensor
    over_linear: torch.Tensor


def levels(steps: int) -> dict[str, int]:
    """The steps of a chain of `steps` that stand for low, middle and high noise, by name."""
    return dict(zip(LEVELS, (0, (steps - 1) // 2, steps - 1), strict=True))


def skill_of(
    denoised_RD: torch.Tensor, x_RD: torch.Tensor, x0_RD: torch.Tensor, mask_R: torch.Tensor
) -> Skill:
    """The skill of estimates of `x_0` made from `x_t`, all [R, D] and on the scale of `x_0`; mask: bool [R].

    The linear map, `x_0 = A x_t + b` by least squares, is fitted on the first half of the rows; all three are
    judged on the second.
    """
    half = len(x_RD) // 2
    other = mask_R[half:, None].double()

    def error(estimate_RD: torch.Tensor) -> torch.Tensor:
        return ((estimate_RD.double() - x0_RD[half:].double()).square() * other).sum().clamp_min(1e-12)

    own = error(denoised_RD[half:])
    linear = error(_fitted(x_RD[:half], x0_RD[:half], mask_R[:half])(x_RD[half:]))
    return Skill((1 - own / error(x_RD[half:])).float(), (1 - own / linear).float())


def _fitted(
    x_RD: torch.Tensor, x0_RD: torch.Tensor, mask_R: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The linear map of least squares, by the normal equations in float64."""

    def with_one(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.double(), x.new_ones(len(x), 1, dtype=torch.float64)], dim=1)

    x = with_one(x_RD) * mask_R[:, None]
    gram = x.T @ x
    # A little of the identity: with few rows the fit has more unknowns than equations.
    gram.diagonal().add_(1e-6 * gram.diagonal().mean() + 1e-12)
    weight = torch.linalg.solve_ex(gram, x.T @ x0_RD.double()).result  # checked, a GPU's host would wait
    return lambda other: with_one(other) @ weight
