"""Sequence backbones [B, L, D] -> [B, L, D], causal: position l reads positions <= l only.

Sequences are right-padded, so a causal backbone never lets a real position read padding. Dropout is
counter-based, on the embeddings (site 0) and the residual branches, none inside attention weights or the GRU
[ours].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mealrec.config import BackboneConfig
from mealrec.noise import Dropout


class SASRecBlock(nn.Module):
    """Pre-norm causal self-attention and feed-forward, both as residual branches [SASRec]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x_BLD: torch.Tensor, dropout: Dropout, site: int) -> torch.Tensor:
        """[B, L, D] -> [B, L, D], with dropout at `site` and those after it."""
        B, L, D = x_BLD.shape
        qkv = (
            self.qkv(self.attention_norm(x_BLD))
            .view(B, L, 3, self.heads, D // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BLD = dropout(self.out(attended.transpose(1, 2).reshape(B, L, D)), site, x_BLD)
        return dropout(self.ffn(self.ffn_norm(x_BLD)), site + 1, x_BLD)


class SASRec(nn.Module):
    """Causal transformer [SASRec]."""

    def __init__(self, dim: int, config: BackboneConfig):
        super().__init__()
        self.blocks = nn.ModuleList(SASRecBlock(dim, config.heads) for _ in range(config.layers))

    def forward(self, z_BLD: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        """[B, L, D] -> [B, L, D]."""
        x_BLD = dropout(z_BLD, 0)
        for index, block in enumerate(self.blocks):
            x_BLD = block(x_BLD, dropout, 1 + 2 * index)
        return x_BLD


class GRU4Rec(nn.Module):
    """Gated recurrent units and a projection [GRU4Rec]."""

    def __init__(self, dim: int, config: BackboneConfig):
        super().__init__()
        self.gru = nn.GRU(dim, dim, config.layers, batch_first=True)
        self.out = nn.Linear(dim, dim)

    def forward(self, z_BLD: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        """[B, L, D] -> [B, L, D]."""
        h_BLD, _ = self.gru(dropout(z_BLD, 0))
        return dropout(self.out(h_BLD), 1)


class CausalConvolution(nn.Module):
    """A dilated convolution over the positions before and at each position."""

    def __init__(self, dim: int, dilation: int, kernel: int = 3):
        super().__init__()
        self.reach = dilation * (kernel - 1)
        self.convolution = nn.Conv1d(dim, dim, kernel, dilation=dilation)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> [B, L, D]."""
        y_BDL: torch.Tensor = self.convolution(F.pad(x_BLD.transpose(1, 2), (self.reach, 0)))
        return y_BDL.transpose(1, 2)


class NextItNetBlock(nn.Module):
    """Two dilated causal convolutions on a residual branch, dilations r and 2r [NextItNet]."""

    def __init__(self, dim: int, dilation: int):
        super().__init__()
        self.convolutions = nn.ModuleList(CausalConvolution(dim, rate) for rate in (dilation, 2 * dilation))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x_BLD: torch.Tensor, dropout: Dropout, site: int) -> torch.Tensor:
        """[B, L, D] -> [B, L, D], with dropout at `site` and those after it."""
        y_BLD = x_BLD
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y_BLD = F.relu(norm(convolution(y_BLD)))
        return dropout(y_BLD, site, x_BLD)


class NextItNet(nn.Module):
    """Stacked residual blocks whose dilations grow fourfold from block to block [NextItNet]."""

    def __init__(self, dim: int, config: BackboneConfig):
        super().__init__()
        self.blocks = nn.ModuleList(NextItNetBlock(dim, 4**index) for index in range(config.layers))

    def forward(self, z_BLD: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        """[B, L, D] -> [B, L, D]."""
        x_BLD = dropout(z_BLD, 0)
        for index, block in enumerate(self.blocks):
            x_BLD = block(x_BLD, dropout, 1 + index)
        return x_BLD


BACKBONES = {"sasrec": SASRec, "gru4rec": GRU4Rec, "nextitnet": NextItNet}


def build(dim: int, config: BackboneConfig) -> nn.Module:
    """Build the backbone that `config.name` names."""
    return BACKBONES[config.name](dim, config)
