"""MealRec: from histories to preferences and scores, all positions in one pass.

ID embeddings and refined videos go into a sequence backbone, and its preference is denoised. Every statistic
at position l uses positions <= l only (causal attention, causal user summary), so one pass trains all
positions of a sequence with no leak of the future [ours]; the ancestors make a sample of every prefix.

Only the backbone computes padding: TCD, NPD and the losses see the N real positions.

Legend: as in `batch.py`; N real positions of a batch, W positions with a target, K negatives, D model width.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mealrec import backbones, ranking
from mealrec.batch import Batch, real_index, target_index
from mealrec.config import MealRecConfig
from mealrec.content import dropped, shares
from mealrec.errors import ConfigError
from mealrec.noise import Dropout, Noise
from mealrec.npd import NPD
from mealrec.objective import NegativeSampler, full_softmax, sampled_softmax
from mealrec.tcd import TCD, Histories
from mealrec.video import VideoEncoder, frame_mask, mean_over_frames
from mealrec.views import in_drawn_order, with_feature_noise

Losses = dict[str, torch.Tensor]
VIDEO_GAIN = 0.1  # of content beside the IDs, at the start


class Encoded(NamedTuple):
    """A batch after the backbone, before NPD.

    The indices of its real positions, row by row, int64 [N]; preferences h and NPD's queries q [B, L, D]; the
    sum of L_TCD (in training, with TCD), and the histories' videos (with features).
    """

    index_N: torch.Tensor
    h_BLD: torch.Tensor
    q_BLD: torch.Tensor
    loss_tcd: torch.Tensor | None
    histories: Histories | None


class MealRec(nn.Module):
    """The whole model.

    train_counts: int64 [I+1], events of each video in the training part, for the biases, the share of content
    and the sampled softmax (default: one each); content: float [I+1, V], the mean of each video's real
    frames, where `config.has_content`. The weights depend on `config`, `seed` and the counts alone.

    Raises:
        ConfigError: the configuration cannot work, or needs a content that is not there.
    """

    content: torch.Tensor
    id_share: torch.Tensor
    content_share: torch.Tensor

    def __init__(
        self,
        config: MealRecConfig,
        seed: int = 0,
        train_counts: torch.Tensor | None = None,
        content: torch.Tensor | None = None,
    ):
        super().__init__()
        config.validate()
        self.config = config
        # One CPU generator makes the weights, so they are the same on any device and any number of ranks.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)
        counts = torch.ones(config.videos + 1, dtype=torch.int64) if train_counts is None else train_counts
        # Popularity need not be learned: without it all preferences would first turn to the same direction,
        # which alone can express it. A video that was never seen has the bias of one that was seen once.
        self.bias = nn.Parameter(counts.clamp_min(1).log().float()) if config.item_bias else None
        if self.config.samples_negatives:
            self.negatives = NegativeSampler(counts, config.objective)
        if config.has_content:
            if content is None or content.shape != (config.videos + 1, config.width):
                found = None if content is None else [*content.shape]
                raise ConfigError(f"content is {found}, expected [{config.videos + 1}, {config.width}]")
            id_share, content_share = shares(config, counts)
            self.register_buffer("content", content.float(), persistent=False)
            self.register_buffer("id_share", id_share, persistent=False)
            self.register_buffer("content_share", content_share, persistent=False)
        self._table: torch.Tensor | None = None  # the embeddings of an evaluation, while it lasts

    def _build(self, config: MealRecConfig) -> None:
        # Parameters of the root module, where ZeRO-3 gathers them for the whole pass: the embeddings are read
        # at both ends of it.
        # A small start: a rare video's score begins near zero, not with the noise of its row.
        if config.use_ids:
            self.item = nn.Parameter(torch.randn(config.videos + 1, config.dim) * 0.02)
        if config.has_content:
            self.content_weight = nn.Parameter(
                torch.randn(config.width, config.dim) * 0.02 * config.width**-0.5
            )
        self.position = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.02)
        self.backbone = backbones.build(config.dim, config.backbone)
        if config.has_video:
            self.video = VideoEncoder(config.width, config.dim)
            self.no_video = nn.Parameter(torch.zeros(config.dim))
            # Content is layer-normed, so only this can make it small beside the IDs, which know frequent
            # videos better [ours].
            self.video_gain = nn.Parameter(torch.full((config.dim,), VIDEO_GAIN))
        if config.has_tcd:
            self.tcd = TCD(config.dim, config.frames, config.tcd)
        if config.npd.enabled:
            self.npd = NPD(config.dim, config.npd)

    def forward(
        self, batch: Batch, task: str = "loss", **options: Any
    ) -> Losses | tuple[torch.Tensor, torch.Tensor]:
        """Run the method that `task` names: loss, target_rank, top or guards, with its options.

        Everything goes through here, so that wrappers (DeepSpeed, DDP, compile) see every use.
        """
        if task == "loss":
            return self.losses(batch)
        if task == "target_rank":
            return self.target_rank(batch, **options)
        if task == "top":
            return self.top(batch, **options)
        if task == "guards":
            return self.guards(batch)
        raise ValueError(f"task is {task!r}, expected loss, target_rank, top or guards")

    # Training

    def losses(self, batch: Batch) -> Losses:
        """Sums over real targets (`rec`), frames (`tcd`) and real positions (`npd`), float32 scalars.

        Divide by `counts`, of the whole global batch where there are several ranks, and weight them with
        `objective`.
        """
        noise = Noise.of_batch(batch, self.config.frames, self.config.kernel)
        index_W = target_index(batch)
        target_W = batch["target"].flatten()[index_W]
        samples = self.config.samples_negatives
        negative_K = self.negatives.draw(noise.seed, noise.step) if samples else target_W[:0]
        table = None if samples else self.table(noise)
        row_BLD, target_WD, negative_KD = self.rows(noise, batch["item"], target_W, negative_K, table=table)
        encoded = self.encode(batch, row_BLD, noise)
        index_N = encoded.index_N
        u_ND, loss_npd = encoded.h_BLD.flatten(0, 1)[index_N], None
        if self.config.npd.enabled:
            q_ND, real_N = encoded.q_BLD.flatten(0, 1)[index_N], batch["item"].flatten()[index_N] > 0
            u_ND, loss_npd = self.npd(u_ND, q_ND, noise.at_positions(index_N), mask_R=real_N)
        u_WD, target_WD = _operand(u_ND[torch.searchsorted(index_N, index_W)]), _operand(target_WD)
        bias_I, kernel = self._training_biases(), self.config.kernel
        if samples:
            negative_KD = _operand(negative_KD)
            loss_rec = sampled_softmax(
                u_WD, target_WD, target_W, negative_KD, negative_K, self.negatives, bias_I, kernel
            )
        else:
            assert table is not None
            loss_rec = full_softmax(u_WD, target_WD, target_W, _operand(table), bias_I, kernel)
        parts = {"rec": loss_rec, "tcd": encoded.loss_tcd, "npd": loss_npd}
        return {name: loss for name, loss in parts.items() if loss is not None}

    def _training_biases(self) -> torch.Tensor | None:
        """The biases with which videos compete in training, float32 [I+1]; None: 0.

        Videos that nobody watched do not compete where content alone stands for them: to be a wrong answer
        every time would only teach the model not to recommend what is like them.
        """
        bias_I = None if self.bias is None else self.bias.float()
        if not self.config.has_content:
            return bias_I
        unwatched_I = torch.zeros_like(self.id_share).masked_fill(self.id_share == 0, float("-inf"))
        return unwatched_I if bias_I is None else bias_I + unwatched_I

    def counts(self, batch: Batch) -> Losses:
        """Terms in each sum of `losses`, float64 scalars by the same names; needs no forward pass."""
        real_BL = batch["item"] > 0
        counts = {"rec": (batch["target"] > 0).sum()}
        if self.config.has_tcd_loss:
            frames_U = batch["frames"] if self.config.tcd.target == "frames" else batch["frames"].clamp_max(1)
            counts["tcd"] = (frames_U[batch["feature_row"]] * real_BL).sum()
        if self.config.has_npd_loss:
            counts["npd"] = real_BL.sum()
        return {name: count.double() for name, count in counts.items()}

    def objective(self, losses: Losses, counts: Losses) -> torch.Tensor:
        """`CE + lambda_T L_TCD + lambda_N L_NPD`, each a sum over its count."""
        weight = {"rec": 1.0, "tcd": self.config.tcd.loss_weight, "npd": self.config.npd.loss_weight}
        terms = (
            weight[name] * loss / counts[name].clamp_min(1).to(loss.dtype) for name, loss in losses.items()
        )
        return functools.reduce(operator.add, terms)

    # Ranking

    @torch.no_grad()
    def target_rank(
        self, batch: Batch, mask_history: bool = True, chunk: int = 0, sampler_steps: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Videos that score above the target and others that equal it, int64 [B] each, over all videos.

        See `ranking.target_rank`; sampler_steps: steps of both reverse chains, 0 = all.
        """
        u_BD = self.preference(batch, sampler_steps)
        seen, bias_I, kernel = _seen(batch, mask_history), self._video_biases, self.config.kernel
        return ranking.target_rank(u_BD, self._ranked, batch["target"], seen, chunk, bias_I, kernel)

    @torch.no_grad()
    def top(
        self,
        batch: Batch,
        k: int = 20,
        mask_history: bool = True,
        chunk: int = 0,
        sampler_steps: int = 0,
        hidden: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best videos of each row: scores float32 [B, k], ids int64 [B, k].

        hidden: bool [I], videos left out for all rows; where fewer than k are left, scores of -inf follow.
        """
        u_BD = self.preference(batch, sampler_steps)
        seen = _seen(batch, mask_history)
        return ranking.top(u_BD, self._ranked, k, seen, chunk, self._video_biases, hidden)

    @property
    def _ranked(self) -> torch.Tensor:
        """Embeddings of the videos without the padding's, [I, D]; those with content are made once."""
        if self._table is None:
            table = self.table()
            if self.training or not self.config.has_content:
                return table[1:]
            self._table = table
        return self._table[1:]

    def train(self, mode: bool = True) -> MealRec:
        """Switch to training or to evaluation, which then starts from the weights as they are."""
        self._table = None
        return super().train(mode)

    @property
    def _video_biases(self) -> torch.Tensor | None:
        """The biases without the padding's, [I]."""
        return None if self.bias is None else self.bias[1:]

    def user_vectors(self, batch: Batch, sampler_steps: int = 0) -> torch.Tensor:
        """Vectors whose products with `video_vectors` are the scores: `preference`, and 1 for the bias."""
        u_BD = self.preference(batch, sampler_steps)
        return u_BD if self.bias is None else F.pad(u_BD, (0, 1), value=1.0)

    def video_vectors(self) -> torch.Tensor:
        """Embeddings of the videos and, where there is one, their bias, float32 [I, D] or [I, D+1]."""
        E_ID = self.table()[1:].detach().float()
        return E_ID if self.bias is None else torch.cat([E_ID, self.bias[1:, None].detach().float()], dim=1)

    def preference(self, batch: Batch, sampler_steps: int = 0) -> torch.Tensor:
        """`u` [B, D] at each row's last position."""
        noise = Noise.of_batch(batch, self.config.frames, self.config.kernel)
        (row_BLD,) = self.rows(noise, batch["item"])
        encoded = self.encode(batch, row_BLD, noise, sampler_steps)
        last_B = ((batch["item"] > 0).sum(1) - 1).clamp_min(0)
        # Not `len`, which would fix the batch of an exported graph.
        rows = torch.arange(last_B.shape[0], device=last_B.device)
        u_BD = encoded.h_BLD[rows, last_B]
        if self.config.npd.enabled:
            u_BD, _ = self.npd(u_BD, encoded.q_BLD[rows, last_B], noise.at_columns(last_B), sampler_steps)
        return u_BD

    # Guards against collapse

    @torch.no_grad()
    def guards(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Figures for the log: whether the denoisers use their inputs, and contents and preferences vary.

        Float32 scalars: `preference_variance` of h and `content_variance` of F over the batch, and the errors
        of `TCD.guards` and `NPD.guards` with an input shuffled, relative to without; those of parts that do
        not denoise are missing.
        """
        noise = Noise.of_batch(batch, self.config.frames, self.config.kernel)
        (row_BLD,) = self.rows(noise, batch["item"])
        encoded = self.encode(batch, row_BLD, noise, sampler_steps=1)
        index_N, noise = encoded.index_N, noise.at_positions(encoded.index_N)
        h_ND = encoded.h_BLD.flatten(0, 1)[index_N]
        guards = {"preference_variance": h_ND.float().var(0).mean()}
        if encoded.histories is not None:
            guards["content_variance"] = variance(encoded.histories.F_UMD, encoded.histories.mask_UM).mean()
            if self.config.has_tcd_loss:
                guards |= self.tcd.guards(encoded.histories, noise)
        if self.config.has_npd_loss:
            guards |= self.npd.guards(h_ND, encoded.q_BLD.flatten(0, 1)[index_N], noise)
        return guards

    # Shared by all tasks

    def table(self, noise: Noise | None = None) -> torch.Tensor:
        """Embeddings of all videos [I+1, D], in training with dropout on their content, drawn by `noise`."""
        if not self.config.has_content:
            return self.item
        every_I = torch.arange(self.config.videos + 1, device=self.content.device)
        return self._with_content(getattr(self, "item", None), self.content, every_I, noise)

    def rows(
        self, noise: Noise, *videos: torch.Tensor, table: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Embeddings of videos, [*, D] for each tensor of videos [*]; from the table where it is at hand.

        One gather for all of a batch: each has a gradient as large as the table, the largest tensor.
        """
        flat = torch.cat([part.flatten() for part in videos])
        if table is not None or not self.config.has_content:
            row_KD = F.embedding(flat, self.item if table is None else table)
        else:
            E_KD = F.embedding(flat, self.item) if self.config.use_ids else None
            row_KD = self._with_content(E_KD, self.content[flat], flat, noise)
        parts = torch.split(row_KD, [part.numel() for part in videos])
        return [rows.view(*part.shape, self.config.dim) for rows, part in zip(parts, videos, strict=True)]

    def _with_content(
        self, E_KD: torch.Tensor | None, v_KV: torch.Tensor, video_K: torch.Tensor, noise: Noise | None
    ) -> torch.Tensor:
        """Embeddings of videos [K, D] from their rows of the ID table and their content: see `content.py`."""
        if self.training and noise is not None:
            v_KV = dropped(v_KV, video_K, self.config.content_dropout, noise)
        dtype = self.content_weight.dtype  # with DeepSpeed's bf16 parameters are narrower than buffers
        content_KD = v_KV.to(dtype) @ self.content_weight * self.content_share[video_K, None].to(dtype)
        return content_KD if E_KD is None else content_KD + self.id_share[video_K, None].to(dtype) * E_KD

    def encode(self, batch: Batch, row_BLD: torch.Tensor, noise: Noise, sampler_steps: int = 0) -> Encoded:
        """Histories, and their rows of the ID table, through video, TCD and backbone."""
        config, item_BL = self.config, batch["item"]
        real_BL = item_BL > 0
        index_N = real_index(batch)
        e_BLD = row_BLD * real_BL[..., None] * config.dim**0.5  # zero for padding
        z_BLD = e_BLD + self.position[: item_BL.shape[1]]
        query_BLD, histories, loss_tcd = e_BLD, None, None
        if config.has_video:
            batch = self._viewed(batch, noise)
            mask_UM = frame_mask(batch["frames"], config.frames)
            F_UMD = self.video(batch["features"], mask_UM)
            histories = Histories(F_UMD, mask_UM, batch["feature_row"], e_BLD, real_BL, index_N)
            query_BLD, loss_tcd = self.video_embedding(histories, noise.at_positions(index_N), sampler_steps)
            z_BLD = torch.addcmul(z_BLD, self.video_gain, query_BLD)
        dropout = Dropout(noise, config.backbone.dropout if self.training else 0.0)
        h_BLD = F.layer_norm(self.backbone(z_BLD, dropout), (config.dim,))
        # The query is a causal mean of contents, never h itself, which would give the denoiser its answer.
        q_BLD = (query_BLD * real_BL[..., None]).cumsum(1) / real_BL.cumsum(1).clamp_min(1)[..., None]
        return Encoded(index_N, h_BLD, q_BLD.to(h_BLD.dtype), loss_tcd, histories)

    def video_embedding(
        self, histories: Histories, noise: Noise, sampler_steps: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`v_tilde` [B, L, D] and, in training with TCD, the sum of L_TCD.

        The refined content is mixed with the plain mean [TCDRec]; a video without frames has a learned
        vector. `noise` belongs to the real positions.
        """
        F_UMD, mask_UM, row_BL, _, real_BL, index_N = histories
        v_BLD, loss = mean_over_frames(F_UMD, mask_UM)[row_BL], None
        if self.config.has_tcd:
            refined_ND, loss = self.tcd(histories, noise, sampler_steps)
            refined_RD = refined_ND.new_zeros(real_BL.numel(), self.config.dim)
            refined_BLD = refined_RD.index_copy(0, index_N, refined_ND).view_as(v_BLD)
            v_BLD = self.config.tcd.mix * refined_BLD + (1 - self.config.tcd.mix) * v_BLD
        v_BLD = torch.where(mask_UM.any(1)[row_BL][..., None], v_BLD, self.no_video)
        return v_BLD * real_BL[..., None], loss

    def _viewed(self, batch: Batch, noise: Noise) -> Batch:
        """The batch with its frames as a study wants them: in a drawn order, or with noise in evaluation."""
        if self.config.shuffle_frames:
            batch = {**batch, "features": in_drawn_order(batch, noise)}
        if self.config.feature_noise > 0 and not self.training:
            batch = with_feature_noise(batch, self.config.feature_noise, noise)
        return batch


def variance(x_UMD: torch.Tensor, mask_UM: torch.Tensor) -> torch.Tensor:
    """Unbiased variance over the rows of a mask, float32 [D].

    Without taking those rows out, for which a GPU's host would wait.
    """
    x_RD, mask_R1 = x_UMD.flatten(0, 1).float(), mask_UM.flatten()[:, None]
    count = mask_R1.sum()
    mean_D = (x_RD * mask_R1).sum(0) / count
    return ((x_RD - mean_D) * mask_R1).square().sum(0) / (count - 1)


def _operand(x: torch.Tensor) -> torch.Tensor:
    """`x` as a matrix product reads it: under autocast, which does not reach into the softmax, narrower."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _seen(batch: Batch, mask_history: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Videos to leave out of a ranking, with the row of each."""
    return (batch["history"], batch["history_row"]) if mask_history else None
