"""Frame features into the model's space, once per distinct video of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class VideoEncoder(nn.Module):
    """The content that TCD refines: `F = LN(X W_v)`, no bias, no affine, zero beyond a video's frames."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.dim = dim  # under ZeRO-3 the weight's shape is not this while it is partitioned
        self.project = nn.Linear(width, dim, bias=False)

    def forward(self, features_UMV: torch.Tensor, mask_UM: torch.Tensor) -> torch.Tensor:
        """[U, M, V] raw, mask bool [U, M] -> [U, M, D]."""
        F_UMD = F.layer_norm(self.project(features_UMV.to(self.project.weight.dtype)), (self.dim,))
        return F_UMD * mask_UM[..., None]


def mean_over_frames(x_UMD: torch.Tensor, mask_UM: torch.Tensor) -> torch.Tensor:
    """The plain mean over real frames, [U, D]; zero for a video without any."""
    return x_UMD.sum(1) / mask_UM.sum(1, keepdim=True).clamp_min(1).to(x_UMD.dtype)


def frame_mask(frames_U: torch.Tensor, frames: int) -> torch.Tensor:
    """Frame mask, bool [U, M], true where a video has a frame."""
    return torch.arange(frames, device=frames_U.device) < frames_U[:, None]


def masked_softmax(score: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension's real frames; for a video without frames, over all of its padding.

    So no row of weights is empty; the output of such a video is not used.
    """
    return score.masked_fill(~mask, -1e9).softmax(-1)


class FrameAttention(nn.Module):
    """Bidirectional self-attention over the frames of each video."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_NMD: torch.Tensor, mask_NM: torch.Tensor) -> torch.Tensor:
        """[N, M, D], mask bool [N, M] -> [N, M, D]."""
        N, M, D = x_NMD.shape
        qkv = self.qkv(x_NMD).view(N, M, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).contiguous()
        q, k, v = qkv.unbind(0)
        # Plain products: over a few frames, they take half the time of the attention kernels for long
        # sequences.
        score_NHMM = (q @ k.transpose(2, 3)).float() * k.shape[3] ** -0.5
        weight_NHMM = masked_softmax(score_NHMM, mask_NM[:, None, None, :]).to(v.dtype)
        out_NMD: torch.Tensor = self.out((weight_NHMM @ v).transpose(1, 2).reshape(N, M, D))
        return out_NMD


class TemporalGuidance(nn.Module):
    """`g`: a small bidirectional transformer over the frame differences `F_m - F_{m-1}` [ours].

    Order and change, never the mean itself, which would give the denoiser its answer; zero where there is one
    frame.
    """

    def __init__(self, dim: int, frames: int, heads: int):
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, dim) * 0.02)
        self.project = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = FrameAttention(dim, heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, F_UMD: torch.Tensor, mask_UM: torch.Tensor) -> torch.Tensor:
        """[U, M, D] -> [U, M, D]; zero for videos of fewer than two frames and beyond a video's frames."""
        both = mask_UM[:, 1:] & mask_UM[:, :-1]
        change_UMD = F.pad((F_UMD[:, 1:] - F_UMD[:, :-1]) * both[..., None], (0, 0, 1, 0))
        x_UMD: torch.Tensor = self.project(change_UMD) + self.position
        x_UMD = x_UMD + self.attention(self.attention_norm(x_UMD), mask_UM)
        x_UMD = x_UMD + self.ffn(self.ffn_norm(x_UMD))
        moving = mask_UM & (mask_UM.sum(1, keepdim=True) > 1)
        return x_UMD * moving[..., None]
