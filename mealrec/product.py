"""A matrix product in float32 of factors that may be narrower."""

from __future__ import annotations

import torch


def product(a_ND: torch.Tensor, b_DK: torch.Tensor) -> torch.Tensor:
    """`a @ b`, float32 [N, K].

    A GPU sums bfloat16 products in float32 and gives the sums out as they are; to take them as bfloat16 first
    would round scores to 8 bits. A CPU has no such product: there they are rounded.
    """
    if a_ND.is_cuda and a_ND.dtype == b_DK.dtype == torch.bfloat16:
        return torch.mm(a_ND, b_DK, out_dtype=torch.float32)
    return (a_ND @ b_DK).float()
