"""MealRec: ID embeddings and refined videos into a sequence backbone, its preference denoised, all positions
in one pass.

Every statistic at position l uses positions <= l only (causal attention, causal user summary), so one pass
trains all positions of a sequence with no leak of the future [ours]; the ancestors cut every prefix into a
sample of its own.

Padding costs the backbone alone: TCD, NPD and the losses see the N real positions.

Legend: B rows, L positions, N real positions of a batch, M frames, D model width, V raw feature width, I
videos, U distinct videos.
The batch is a dict of tensors (int64 unless said):
    sample_id [B]     the user's row, the first coordinate of every random number
    offset    [B]     position of column 0 in the user's sequence (default 0)
    item      [B, L]  histories, right-padded with 0, videos 1..I
    target    [B, L]  next video in training, 0 where there is none; [B] in ranking
    features [U, M, V] float, frames [U], feature_row [B, L]
                      frames of the distinct videos, their number, and each position's row of them
    history [S], history_row [S]
                      every earlier video of row `history_row`, left out of a ranking
    seed, global_step scalars (default 0)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mealrec import backbones, ranking
from mealrec.config import MealRecConfig
from mealrec.guards import guards
from mealrec.noise import Batch, Dropout, Noise
from mealrec.npd import NPD
from mealrec.objective import FULL_SOFTMAX_VIDEOS, NegativeSampler, full_softmax, sampled_softmax
from mealrec.ops import Place, Stream, normal
from mealrec.tcd import TCD
from mealrec.video import VideoEncoder, frame_mask, mean_over_frames

Losses = dict[str, torch.Tensor]


class Encoded(NamedTuple):
    """What a batch becomes before NPD: the places of its real positions, numbered row by row, int64 [N]; ID
    embeddings e, preferences h and NPD's queries q [B, L, D]; the sum of L_TCD (in training, with TCD), and
    the content F [U, M, D] with its frame mask [U, M] (with features).
    """

    place_N: torch.Tensor
    e_BLD: torch.Tensor
    h_BLD: torch.Tensor
    q_BLD: torch.Tensor
    loss_tcd: torch.Tensor | None
    F_UMD: torch.Tensor | None
    mask_UM: torch.Tensor | None


class MealRec(nn.Module):
    """The whole model.

    train_counts: int64 [I+1], events of each video in the training part, for the sampled softmax (default:
    uniform).
    feature_std: float [V], standard deviation of the raw features, for `feature_noise`.
    The weights depend on `config` and `seed` alone. Raises ConfigError where the configuration cannot work.
    """

    def __init__(
        self,
        config: MealRecConfig,
        seed: int = 0,
        train_counts: torch.Tensor | None = None,
        feature_std: torch.Tensor | None = None,
    ):
        super().__init__()
        config.check()
        self.config = config
        # The one CPU generator makes the weights, so they are the same on any device and any number of ranks.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)
        if self._sampled:
            counts = (
                torch.ones(config.videos + 1, dtype=torch.int64) if train_counts is None else train_counts
            )
            self.negatives = NegativeSampler(counts, config.objective)
        if config.feature_noise > 0:
            self.register_buffer(
                "feature_std",
                torch.ones(config.width) if feature_std is None else feature_std,
                persistent=False,
            )

    def _build(self, config: MealRecConfig) -> None:
        # Both are parameters of the root, where ZeRO-3 gathers them for the whole pass: the table is read at
        # both of its ends.
        # A small start: a rare video's score begins near zero, not with the noise of its row.
        self.item = nn.Parameter(torch.randn(config.videos + 1, config.dim) * 0.02)
        self.position = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.02)
        self.backbone = backbones.build(config.dim, config.backbone)
        if config.has_video:
            self.video = VideoEncoder(config.width, config.dim)
            self.no_video = nn.Parameter(torch.zeros(config.dim))
        if config.has_tcd:
            self.tcd = TCD(config.dim, config.frames, config.tcd)
        if config.npd.enabled:
            self.npd = NPD(config.dim, config.npd)

    @property
    def _sampled(self) -> bool:
        choice = self.config.objective.softmax
        return choice == "sampled" or (choice == "auto" and self.config.videos > FULL_SOFTMAX_VIDEOS)

    def forward(self, batch: Batch, task: str = "loss", **options):
        """Everything goes through here, so that wrappers (DeepSpeed, DDP, compile) see every use.

        task "loss": see `losses`; "rank": see `rank`; "top": see `top`; "guards": see `mealrec.guards`.
        """
        if task == "loss":
            return self.losses(batch)
        if task == "rank":
            return self.rank(batch, **options)
        if task == "top":
            return self.top(batch, **options)
        if task == "guards":
            return guards(self, batch)
        raise ValueError(f"task is {task!r}, expected loss, rank, top or guards")

    # Training

    def losses(self, batch: Batch) -> Losses:
        """Sums over real targets (`rec`), frames of real positions (`tcd`) and real positions (`npd`),
        float32 scalars.

        Divide by `counts`, of the whole global batch where there are several ranks; `objective` does both.
        """
        noise = Noise.of(batch, self.config.frames, self.config.kernel)
        place_W = batch["target"].flatten().nonzero()[:, 0]
        target_W = batch["target"].flatten()[place_W]
        negative_K = self.negatives.draw(noise.seed, noise.step) if self._sampled else target_W[:0]
        row_BLD, target_WD, negative_KD = self.rows(batch["item"], target_W, negative_K)
        encoded = self.encode(batch, row_BLD, noise)
        place_N = encoded.place_N
        u_ND, loss_npd = encoded.h_BLD.flatten(0, 1)[place_N], None
        if self.config.npd.enabled:
            u_ND, loss_npd = self.npd(u_ND, encoded.q_BLD.flatten(0, 1)[place_N], noise.only(place_N))
        u_WD = u_ND[torch.searchsorted(place_N, place_W)]
        if self._sampled:
            loss_rec = sampled_softmax(u_WD, target_WD, target_W, negative_KD, negative_K, self.negatives)
        else:
            loss_rec = full_softmax(u_WD, target_WD, target_W, self.item)
        parts = {"rec": loss_rec, "tcd": encoded.loss_tcd, "npd": loss_npd}
        return {name: loss for name, loss in parts.items() if loss is not None}

    def counts(self, batch: Batch) -> Losses:
        """What `losses` sums over, float64 scalars under the same keys; needs no forward pass."""
        real_BL = batch["item"] > 0
        counts = {"rec": (batch["target"] > 0).sum()}
        if self.config.has_tcd:
            frames_U = batch["frames"] if self.config.tcd.target == "frames" else batch["frames"].clamp_max(1)
            counts["tcd"] = (frames_U[batch["feature_row"]] * real_BL).sum()
        if self.config.npd.enabled:
            counts["npd"] = real_BL.sum()
        return {name: count.double() for name, count in counts.items()}

    def objective(self, losses: Losses, counts: Losses) -> torch.Tensor:
        """`CE + lambda_T L_TCD + lambda_N L_NPD`, each a sum over its count."""
        weight = {"rec": 1.0, "tcd": self.config.tcd.loss_weight, "npd": self.config.npd.loss_weight}
        return sum(
            weight[name] * loss / counts[name].clamp_min(1).to(loss.dtype) for name, loss in losses.items()
        )

    # Ranking

    @torch.no_grad()
    def rank(self, batch: Batch, mask_history: bool = True, chunk: int = 0, sampler_steps: int = 0):
        """Videos that score above the target and others that equal it, int64 [B] each, over all videos; see
        `ranking.rank`.

        sampler_steps: steps of both reverse chains, 0 = all.
        """
        seen = (batch["history"], batch["history_row"]) if mask_history else None
        return ranking.rank(
            self._preference(batch, sampler_steps), self.item[1:], batch["target"], seen, chunk
        )

    @torch.no_grad()
    def top(
        self, batch: Batch, k: int = 20, mask_history: bool = True, chunk: int = 0, sampler_steps: int = 0
    ):
        """The k best videos of each row: scores float32 [B, k], ids int64 [B, k]."""
        seen = (batch["history"], batch["history_row"]) if mask_history else None
        return ranking.top(self._preference(batch, sampler_steps), self.item[1:], k, seen, chunk)

    def _preference(self, batch: Batch, sampler_steps: int) -> torch.Tensor:
        """`u` [B, D] at each row's last position."""
        noise = Noise.of(batch, self.config.frames, self.config.kernel)
        encoded = self.encode(batch, *self.rows(batch["item"]), noise, sampler_steps)
        last_B = ((batch["item"] > 0).sum(1) - 1).clamp_min(0)
        rows = torch.arange(len(last_B), device=last_B.device)
        u_BD = encoded.h_BLD[rows, last_B]
        if self.config.npd.enabled:
            u_BD, _ = self.npd(u_BD, encoded.q_BLD[rows, last_B], noise.select(last_B), sampler_steps)
        return u_BD

    # Both

    def rows(self, *videos: torch.Tensor) -> list[torch.Tensor]:
        """Rows of the ID table, [*, D] for each tensor of videos [*].

        One gather for all of a batch: the gradient of each is as large as the table, the largest there is.
        """
        flat = F.embedding(torch.cat([part.flatten() for part in videos]), self.item)
        parts = flat.split([part.numel() for part in videos])
        return [rows.view(*part.shape, self.config.dim) for rows, part in zip(parts, videos, strict=True)]

    def encode(self, batch: Batch, row_BLD: torch.Tensor, noise: Noise, sampler_steps: int = 0) -> Encoded:
        """Histories, and their rows of the ID table, through video, TCD and backbone; NPD and the losses come
        after it.
        """
        config, item_BL = self.config, batch["item"]
        real_BL = item_BL > 0
        place_N = real_BL.flatten().nonzero()[:, 0]
        e_BLD = row_BLD * real_BL[..., None] * config.dim**0.5  # zero for padding
        z_BLD = e_BLD + self.position[: item_BL.shape[1]]
        query_BLD, F_UMD, mask_UM, loss_tcd = e_BLD, None, None, None
        if config.has_video:
            mask_UM = frame_mask(batch["frames"], config.frames)
            F_UMD = self.video(self._features(batch), mask_UM)
            query_BLD, loss_tcd = self._watch(batch, F_UMD, mask_UM, e_BLD, place_N, noise, sampler_steps)
            z_BLD = z_BLD + query_BLD
        dropout = Dropout(noise, config.backbone.dropout if self.training else 0.0)
        h_BLD = F.layer_norm(self.backbone(z_BLD, dropout), (config.dim,))
        # The query is a causal mean of contents, never h itself, which would hand the denoiser its answer.
        q_BLD = (query_BLD * real_BL[..., None]).cumsum(1) / real_BL.cumsum(1).clamp_min(1)[..., None]
        return Encoded(place_N, e_BLD, h_BLD, q_BLD.to(h_BLD.dtype), loss_tcd, F_UMD, mask_UM)

    def _watch(
        self,
        batch: Batch,
        F_UMD: torch.Tensor,
        mask_UM: torch.Tensor,
        e_BLD: torch.Tensor,
        place_N: torch.Tensor,
        noise: Noise,
        sampler_steps: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`v_tilde` [B, L, D]: the refined content mixed with the plain mean [TCDRec]; a learned vector for a
        video without frames.
        """
        config, row_BL, real_BL = self.config, batch["feature_row"], batch["item"] > 0
        v_BLD, loss = mean_over_frames(F_UMD, mask_UM)[row_BL], None
        if config.has_tcd:
            refined_ND, loss = self.tcd(
                F_UMD, mask_UM, row_BL, e_BLD, real_BL, place_N, noise.only(place_N), sampler_steps
            )
            refined_RD = refined_ND.new_zeros(real_BL.numel(), config.dim).index_copy(0, place_N, refined_ND)
            v_BLD = config.tcd.mix * refined_RD.view_as(v_BLD) + (1 - config.tcd.mix) * v_BLD
        v_BLD = torch.where((batch["frames"] > 0)[row_BL][..., None], v_BLD, self.no_video)
        return v_BLD * real_BL[..., None], loss

    def _features(self, batch: Batch) -> torch.Tensor:
        """Raw features [U, M, V], with `sigma * std * eps` added in the robustness study: eps belongs to a
        video and the seed.
        """
        features_UMV, sigma = batch["features"], self.config.feature_noise
        if sigma == 0:
            return features_UMV
        U, M, V = features_UMV.shape
        video_U = torch.zeros_like(batch["frames"]).scatter_(
            0, batch["feature_row"].flatten(), batch["item"].flatten()
        )
        noise = Noise.of(batch, M, self.config.kernel)
        row_R = torch.arange(M, device=video_U.device).repeat(U)
        place = Place(noise.seed, torch.zeros_like(noise.step), video_U.repeat_interleave(M), row_R)
        eps_UMV = normal(place, V, Stream.FEATURE_NOISE).view(U, M, V)
        return features_UMV + sigma * self.feature_std * eps_UMV
