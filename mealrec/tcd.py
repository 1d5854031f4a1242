"""TCD, Temporal-guided Content Diffusion [paper: purpose; form ours].

Refines the content of each video of a history under intra-video temporal guidance and a personalised
collaborative condition.

Legend: B rows, L positions, N real positions among them, U distinct videos, M frames, D model width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mealrec import ops
from mealrec.config import TCDConfig
from mealrec.diffusion import Diffusion, Streams, schedule_of, shuffled, step_embedding
from mealrec.noise import Noise
from mealrec.ops import RandomStream
from mealrec.video import FrameAttention, TemporalGuidance, masked_softmax, mean_over_frames

STREAMS = Streams(
    RandomStream.TCD_STEP, RandomStream.TCD_NOISE, RandomStream.TCD_INFER_START, RandomStream.TCD_INFER_STEP
)


class Histories(NamedTuple):
    """The videos of a batch's histories.

    Content F [U, M, D] of the distinct videos with its frame mask [U, M], each position's row of it [B, L],
    ID embeddings e [B, L, D], which positions are real [B, L] and the indices of those, row by row [N].
    """

    F_UMD: torch.Tensor
    mask_UM: torch.Tensor
    row_BL: torch.Tensor
    e_BLD: torch.Tensor
    real_BL: torch.Tensor
    index_N: torch.Tensor


class ContentInputs(NamedTuple):
    """What is diffused at each real position, and what the denoiser knows about it.

    Content F as the frames of the distinct videos [U*M, D] and the row of it for each frame of a position,
    int64 [N*M]: the frames are not copied; mask [N, M], guidance g [N, M, D], condition c [N, D].
    """

    F_RD: torch.Tensor
    row_R: torch.Tensor
    mask_NM: torch.Tensor
    g_NMD: torch.Tensor
    c_ND: torch.Tensor


def recent_mean(e_BLD: torch.Tensor, real_BL: torch.Tensor, decay: float) -> torch.Tensor:
    """The user's recency-weighted summary up to each position, [B, L, D].

    `p_l = sum_{j<=l} decay^(l-j) e_j / sum_{j<=l} decay^(l-j)`.
    """
    columns = torch.arange(e_BLD.shape[1], device=e_BLD.device)
    age_LL = columns[:, None] - columns[None, :]
    weight_LL = torch.where(age_LL >= 0, decay ** age_LL.clamp_min(0).float(), 0).to(e_BLD.dtype)
    weight_BLL = weight_LL * real_BL[:, None, :]
    return weight_BLL @ e_BLD / weight_BLL.sum(2, keepdim=True).clamp_min(1e-6)


class DenoiserBlock(nn.Module):
    """Attention over frames and a feed-forward, both modulated by the condition.

    Scale, shift and gate come from the condition and start without effect [DiT; ours: gates start at 1].
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = FrameAttention(dim, heads)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.modulate = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x_NMD: torch.Tensor, s_ND: torch.Tensor, mask_NM: torch.Tensor) -> torch.Tensor:
        """x: [N, M, D]; s: condition [N, D]; mask: bool [N, M]; returns [N, M, D]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulate(s_ND)[:, None, :].chunk(6, dim=2)
        width = x_NMD.shape[-1:]
        # `addcmul(a, b, c) = a + b c`: half the passes over [N, M, D].
        y_NMD = torch.addcmul(shift_a, F.layer_norm(x_NMD, width), 1 + scale_a)
        x_NMD = torch.addcmul(x_NMD, self.attention(y_NMD, mask_NM), 1 + gate_a)
        y_NMD = torch.addcmul(shift_f, F.layer_norm(x_NMD, width), 1 + scale_f)
        return torch.addcmul(x_NMD, self.ffn(y_NMD), 1 + gate_f)


class ContentDenoiser(nn.Module):
    """Predicts `x_0` of the frames from `x_t`, `g`, `c` and `t`.

    A denoiser by its form [EDM]: `x0hat = sqrt(abar) x_t + sqrt(1 - abar) net(...)`, the best linear estimate
    of a content of unit variance (F is layer-normed) plus a correction that starts at zero and vanishes with
    the noise.
    """

    def __init__(self, dim: int, frames: int, config: TCDConfig):
        super().__init__()
        self.schedule = schedule_of(config)
        self.position = nn.Parameter(torch.randn(frames, dim) * 0.02)
        self.content = nn.Linear(dim, dim)
        self.guidance = nn.Linear(dim, dim, bias=False)
        self.step = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(DenoiserBlock(dim, config.heads) for _ in range(config.layers))
        self.modulate = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        for layer in (self.modulate, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x_NMD: torch.Tensor,
        t_N: torch.Tensor,
        g_NMD: torch.Tensor,
        c_ND: torch.Tensor,
        mask_NM: torch.Tensor,
    ) -> torch.Tensor:
        """x, g: [N, M, D]; t: int64 [N]; c: [N, D]; mask: bool [N, M]; returns `x0hat` [N, M, D]."""
        s_ND = F.silu(self.step(step_embedding(t_N, c_ND.shape[1], c_ND.dtype)) + c_ND)
        y_NMD = self.content(x_NMD) + self.guidance(g_NMD) + self.position
        for block in self.blocks:
            y_NMD = block(y_NMD, s_ND, mask_NM)
        shift, scale = self.modulate(s_ND)[:, None, :].chunk(2, dim=2)
        y_NMD = torch.addcmul(shift, F.layer_norm(y_NMD, y_NMD.shape[-1:]), 1 + scale)
        table = ops.schedule.tables(self.schedule, x_NMD.device)
        signal, noise = (part[t_N + 1, None, None].to(x_NMD.dtype) for part in (table.signal, table.noise))
        return torch.addcmul(signal * x_NMD, noise, self.out(y_NMD))


class FrameScores(nn.Linear):
    """Scores of frames `[x; g]` under queries: `q . W [x; g]`, in another order of the products.

    The few queries are multiplied with the weight, rather than the many frames.
    """

    def forward(  # type: ignore[override]
        self, q_NHK: torch.Tensor, x_NMD: torch.Tensor, g_NMD: torch.Tensor, position_MD: torch.Tensor
    ) -> torch.Tensor:
        """q: [N, H, K]; x, g: [N, M, D]; position: added to g, [M, D]; returns [N, H, M]."""
        N, H, K = q_NHK.shape
        weight_HKE = self.weight.view(H, K, -1)
        q_NHE = torch.bmm(q_NHK.transpose(0, 1), weight_HKE).transpose(0, 1)
        for_x_NHD, for_g_NHD = q_NHE.chunk(2, dim=2)
        score_NHM = for_g_NHD @ position_MD.T
        score_NHM = torch.baddbmm(score_NHM, for_g_NHD, g_NMD.transpose(1, 2))
        return torch.baddbmm(score_NHM, for_x_NHD, x_NMD.transpose(1, 2))


class FramePooling(nn.Module):
    """Recombines the refined frames of a video: salient frames up, redundant ones down.

    Queries are made from the condition `c`. [ours] A key has its frame, its position and the guidance `g`,
    since order matters to what a frame means; with several heads the first salient frame and the last one can
    have different effects. The output starts near the mean of the heads, in the space of the frames.
    """

    def __init__(self, dim: int, frames: int, heads: int):
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(frames, dim) * 0.02)
        self.query = nn.Linear(dim, dim)
        self.key = FrameScores(2 * dim, dim, bias=False)
        self.out = nn.Linear(heads * dim, dim, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(torch.eye(dim).repeat(1, heads) / heads)
            self.out.weight.add_(torch.randn_like(self.out.weight) * 0.02)

    def forward(
        self, x_NMD: torch.Tensor, mask_NM: torch.Tensor, g_NMD: torch.Tensor, c_ND: torch.Tensor
    ) -> torch.Tensor:
        """x, g: [N, M, D]; mask: bool [N, M]; c: [N, D]; returns [N, D]."""
        weight_NHM = self.weights(x_NMD, mask_NM, g_NMD, c_ND).to(x_NMD.dtype)
        pooled_ND: torch.Tensor = self.out((weight_NHM @ x_NMD).flatten(1))
        return pooled_ND

    def weights(
        self, x_NMD: torch.Tensor, mask_NM: torch.Tensor, g_NMD: torch.Tensor, c_ND: torch.Tensor
    ) -> torch.Tensor:
        """The weight of each frame by head, float32 [N, H, M] with a sum of 1; the arguments of `forward`."""
        q_NHK = self.query(c_ND).unflatten(1, (self.heads, -1))
        score_NHM = self.key(q_NHK, x_NMD, g_NMD, self.position).float() * q_NHK.shape[2] ** -0.5
        return masked_softmax(score_NHM, mask_NM[:, None])


class TCD(nn.Module):
    """Corrupts, denoises and recombines the frames of every video of a history."""

    def __init__(self, dim: int, frames: int, config: TCDConfig):
        super().__init__()
        self.config = config
        self.diffusion = Diffusion(config, STREAMS, config.guidance)
        diffused = frames if config.target == "frames" else 1
        self.temporal = TemporalGuidance(dim, frames, config.heads) if config.temporal_guidance else None
        self.condition = nn.Linear(2 * dim, dim) if config.collaborative else None
        self.null_guidance = nn.Parameter(torch.randn(dim) * 0.02)
        self.null_condition = nn.Parameter(torch.randn(dim) * 0.02)
        if config.control != "pooling":
            self.denoiser = ContentDenoiser(dim, diffused, config)
        self.pool = FramePooling(dim, diffused, config.pool_heads) if diffused > 1 else None

    def forward(
        self, histories: Histories, noise: Noise, sampler_steps: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Refine the videos: [N, D] and, in training, the sum of L_TCD over their real frames.

        `noise` belongs to the N real positions. In evaluation the reverse chain runs from `infer_start` in
        `sampler_steps` steps (0 = all).
        """
        inputs = self.inputs(histories)
        x_NMD, loss = self._refined(inputs, noise, sampler_steps)
        if self.config.control == "none":
            # Straight through: the content learns from the ranking as if it had not been refined.
            clean_RD = inputs.F_RD[inputs.row_R]
            x_NMD = (clean_RD + (x_NMD.flatten(0, 1) - clean_RD).detach()).view_as(x_NMD)
        if self.pool is None:
            return x_NMD[:, 0], loss
        return self.pool(x_NMD, inputs.mask_NM, inputs.g_NMD, inputs.c_ND), loss

    def _refined(
        self, inputs: ContentInputs, noise: Noise, sampler_steps: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is pooled, [N, M, D], and in training the sum of L_TCD; the controls have none."""
        if self.config.control != "none":
            x_NMD = inputs.F_RD[inputs.row_R].view_as(inputs.g_NMD)
            if self.config.control == "no_diffusion":
                first_N = torch.zeros_like(inputs.row_R[:: x_NMD.shape[1]])
                x_NMD = self.denoiser(x_NMD, first_N, inputs.g_NMD, inputs.c_ND, inputs.mask_NM)
            return x_NMD, None
        if self.training:
            return self._train(inputs, noise)
        return self._infer(inputs, noise, sampler_steps), None

    def inputs(self, histories: Histories) -> ContentInputs:
        """Content, guidance, which is made of it, and condition."""
        F_UMD, mask_UM, row_BL, e_BLD, real_BL, index_N = histories
        g_UMD = self.temporal(F_UMD, mask_UM) if self.temporal is not None else None
        if self.config.target == "video":
            g_UMD = None if g_UMD is None else mean_over_frames(g_UMD, mask_UM)[:, None]
            F_UMD, mask_UM = mean_over_frames(F_UMD, mask_UM)[:, None], mask_UM[:, :1]
        row_N = row_BL.flatten()[index_N]
        M, D = F_UMD.shape[1:]
        row_R = (row_N[:, None] * M + torch.arange(M, device=row_N.device)).flatten()
        g_NMD = self.null_guidance.expand(row_N.shape[0], M, D) if g_UMD is None else g_UMD[row_N]
        c_ND = self._condition(e_BLD.detach(), real_BL, index_N)
        return ContentInputs(F_UMD.flatten(0, 1), row_R, mask_UM[row_N], g_NMD, c_ND)

    def _condition(self, e_BLD: torch.Tensor, real_BL: torch.Tensor, index_N: torch.Tensor) -> torch.Tensor:
        """`c = W_c [sg(E[item]) ; sg(p_l)]`, [N, D] [TCDRec, HorizonRec: the parts; ours: combining them]."""
        if self.condition is None:
            return self.null_condition.expand(index_N.shape[0], -1)
        # Normed: the ID table starts small, and the condition should have an effect from the first step.
        parts = (e_BLD, recent_mean(e_BLD, real_BL, self.config.recency))
        parts_ND = (F.layer_norm(x.flatten(0, 1)[index_N], x.shape[-1:]) for x in parts)
        c_ND: torch.Tensor = self.condition(torch.cat([*parts_ND], dim=1))
        return c_ND

    def _train(self, inputs: ContentInputs, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """One corruption at a random step, the same for all frames of a video, and its denoising."""
        F_RD, row_R, mask_NM, g_NMD, c_ND = inputs
        x0_RD = F_RD.detach()  # what is diffused is data
        counters, M, mask_R = noise.counters(), g_NMD.shape[1], mask_NM.flatten()

        def nulled(stream: int) -> torch.Tensor:
            return ops.bernoulli(counters, self.config.condition_dropout, stream, kernel=noise.kernel)

        g_NMD = torch.where(nulled(RandomStream.TCD_NULL_GUIDANCE)[:, None, None], self.null_guidance, g_NMD)
        c_ND = torch.where(nulled(RandomStream.TCD_NULL_CONDITION)[:, None], self.null_condition, c_ND)
        x_RD, t_R = self.diffusion.corrupt(x0_RD, noise, M, mask_R, row_R)
        x0hat_NMD = self.denoiser(x_RD.view_as(g_NMD), t_R[::M], g_NMD, c_ND, mask_NM)
        x0hat_RD = x0hat_NMD.flatten(0, 1)
        return x0hat_NMD, ops.diffusion_loss(x0hat_RD, x0_RD, mask_R, row_R=row_R, kernel=noise.kernel)

    def _infer(self, inputs: ContentInputs, noise: Noise, sampler_steps: int) -> torch.Tensor:
        """The reverse chain from `infer_start`, with classifier-free guidance where it is configured."""
        F_RD, row_R, mask_NM, g_NMD, c_ND = inputs
        x0_RD = F_RD.detach()  # what is diffused is data
        M = g_NMD.shape[1]

        def denoise(x_RD: torch.Tensor, t_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            x_NMD, t_N = x_RD.view_as(g_NMD), t_R[::M]
            x0hat_RD = self.denoiser(x_NMD, t_N, g_NMD, c_ND, mask_NM).flatten(0, 1)
            if self.config.guidance <= 0:
                return x0hat_RD, None
            null_ND = self.null_condition.expand_as(c_ND)
            return x0hat_RD, self.denoiser(x_NMD, t_N, g_NMD, null_ND, mask_NM).flatten(0, 1)

        x_RD = self.diffusion.refine(x0_RD, denoise, noise, sampler_steps, M, mask_NM.flatten(), row_R)
        return x_RD.view_as(g_NMD)

    def guards(self, histories: Histories, noise: Noise) -> dict[str, torch.Tensor]:
        """Whether the denoiser uses its inputs, and how well it denoises.

        `tcd_x`, `tcd_g`, `tcd_c`: the error at the last step with that input shuffled between positions,
        relative to without; near 1, the denoiser does not use it. `tcd_skill_LEVEL_OTHER`: see
        `Diffusion.skills`.
        """
        x0_RD, row_R, mask_NM, g_NMD, c_ND = self.inputs(histories)
        M = g_NMD.shape[1]
        last = self.config.steps - 1
        x_RD, t_R = self.diffusion.state(last, x0_RD, noise, M, row_R)
        inputs = {"x": x_RD.view_as(g_NMD), "g": g_NMD, "c": c_ND}

        def error(shuffle: str = "") -> torch.Tensor:
            x, g, c = (shuffled(value) if name == shuffle else value for name, value in inputs.items())
            x0hat_NMD = self.denoiser(x, t_R[::M], g, c, mask_NM)
            return ops.diffusion_loss(x0hat_NMD.flatten(0, 1), x0_RD, mask_NM.flatten(), row_R=row_R)

        def denoise(x_RD: torch.Tensor, t_R: torch.Tensor) -> tuple[torch.Tensor, None]:
            x0hat_NMD = self.denoiser(x_RD.view_as(g_NMD), t_R[::M], g_NMD, c_ND, mask_NM)
            return x0hat_NMD.flatten(0, 1), None

        whole = error()
        skills = self.diffusion.skills(x0_RD, denoise, noise, mask_NM.flatten(), M, row_R)
        return {f"tcd_{name}": error(name) / whole for name in inputs} | {
            f"tcd_skill_{name}": value for name, value in skills.items()
        }
