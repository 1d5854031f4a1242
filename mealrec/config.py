"""Configuration of the model: one dataclass for each part. Importable without torch.

Marks: [paper] stated in arXiv 2603.01926; [X] the formula of a published ancestor; [ours] a decision of this
project.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mealrec.errors import ConfigError

ScheduleName = Literal["linear", "cosine", "sqrt"]
SamplerName = Literal["ddim", "ddpm"]

FULL_SOFTMAX_VIDEOS = 200_000  # beyond this many, the softmax of `auto` is sampled


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class DiffusionConfig:
    """What both diffusions have in common: corruption, sampler, share of the result, weight of the loss."""

    enabled: bool = _option(True, "use this module; false replaces it by the identity")
    steps: int = _option(
        10, "T, diffusion steps of the schedule; with `linear` it is the strength of the corruption"
    )
    schedule: ScheduleName = _option("linear", "noise schedule")
    beta_start: float = _option(1e-3, "first beta of the linear schedule")
    beta_end: float = _option(2e-2, "last beta of the linear schedule")
    infer_start: int = _option(
        -1, "step at which inference starts; -1 = the last step that keeps `infer_signal`"
    )
    infer_signal: float = _option(0.5, "abar of the state from which inference refines, at least")
    sampler: SamplerName = _option("ddim", "reverse chain of inference")
    eta: float = _option(0.0, "noise of the DDIM sampler: 0 deterministic, 1 as much as DDPM")
    mix: float = _option(0.3, "w, share of the refined vector; the rest is the undiffused one")
    loss_weight: float = _option(1.0, "lambda, weight of the denoising loss in the objective")

    def validate(self, name: str) -> None:
        """Raise ConfigError, naming `name.field`, for the first field that cannot work."""
        _require(self.steps >= 1, f"{name}.steps", self.steps, "at least 1")
        _require(
            0 < self.beta_start <= self.beta_end < 1,
            f"{name}.beta_start",
            self.beta_start,
            "0 < beta_start <= beta_end < 1",
        )
        _require(
            -1 <= self.infer_start < self.steps,
            f"{name}.infer_start",
            self.infer_start,
            f"-1 .. {self.steps - 1}",
        )
        _require(0 < self.infer_signal <= 1, f"{name}.infer_signal", self.infer_signal, "0 < abar <= 1")
        _require(0 <= self.mix <= 1, f"{name}.mix", self.mix, "between 0 and 1")
        _require(self.loss_weight >= 0, f"{name}.loss_weight", self.loss_weight, "at least 0")
        _require(0 <= self.eta <= 1, f"{name}.eta", self.eta, "between 0 and 1")


@dataclass
class TCDConfig(DiffusionConfig):
    """Temporal-guided Content Diffusion [paper: purpose; form ours]."""

    mix: float = _option(0.5, "w_T, share of the refined video; the rest is the plain mean of its frames")
    loss_weight: float = _option(2.0, "lambda_T, weight of the denoising loss in the objective")
    # Content is data: from a light corruption it is refined, from a heavier one the chain drifts.
    infer_signal: float = _option(0.98, "abar of the state from which inference refines, at least")
    target: Literal["frames", "video"] = _option(
        "frames", "what is diffused: every frame, or the mean-pooled video"
    )
    control: Literal["none", "no_diffusion", "pooling"] = _option(
        "none",
        "for comparisons: the same networks without noise and denoising loss, or the attention that pools"
        " the frames alone",
    )
    temporal_guidance: bool = _option(True, "guide the denoiser by the order and change of the frames")
    collaborative: bool = _option(True, "condition the denoiser on the item's and the user's ID embeddings")
    condition_dropout: float = _option(
        0.1, "share of positions whose guidance and condition are replaced by learned nulls in training"
    )
    guidance: float = _option(
        0.0, "w of classifier-free guidance at inference: (1+w) x(c) - w x(null) [DreamRec]"
    )
    recency: float = _option(0.8, "decay per position of the user summary p_l in the condition")
    layers: int = _option(1, "transformer blocks of the denoiser")
    heads: int = _option(2, "attention heads over the frames")
    pool_heads: int = _option(4, "heads that pool the refined frames into one vector")

    def validate(self, name: str) -> None:
        """Raise ConfigError, naming `name.field`, for the first field that cannot work."""
        super().validate(name)
        _require(
            0 <= self.condition_dropout < 1, f"{name}.condition_dropout", self.condition_dropout, "0 <= p < 1"
        )
        _require(0 < self.recency <= 1, f"{name}.recency", self.recency, "0 < recency <= 1")
        _require(self.layers >= 1, f"{name}.layers", self.layers, "at least 1")


@dataclass
class NPDConfig(DiffusionConfig):
    """Noise-unconditional Preference Denoising [paper: blind; form HorizonRec]."""

    # Stronger than content's: it is the denoised preference's error that the ranking loss sees.
    beta_start: float = _option(5e-3, "first beta of the linear schedule")
    beta_end: float = _option(0.1, "last beta of the linear schedule")
    noise_conditional: bool = _option(
        False, "tell the denoiser its step (the ablation; the paper's denoiser is blind)"
    )
    control: Literal["none", "no_diffusion"] = _option(
        "none", "for comparisons: the same network without noise and denoising loss"
    )
    detach_input: bool = _option(False, "stop the gradient between the denoiser's input and the backbone")
    hidden: int = _option(2, "width of the denoiser's hidden layer, in multiples of dim")


@dataclass
class BackboneConfig:
    """The sequence backbone: a switch, as the method claims to be universal [paper]."""

    name: Literal["sasrec", "gru4rec", "nextitnet"] = _option("sasrec", "sequence backbone")
    layers: int = _option(2, "layers (nextitnet: residual blocks of two dilated convolutions)")
    heads: int = _option(2, "attention heads (sasrec)")
    dropout: float = _option(0.2, "dropout on embeddings and residual branches")


@dataclass
class ObjectiveConfig:
    """The next-video loss."""

    softmax: Literal["auto", "full", "sampled"] = _option(
        "auto", "auto: full up to 200,000 videos, sampled with log-Q correction beyond"
    )
    negatives: int = _option(
        2048, "negatives of the sampled softmax, drawn once per global step and shared by all ranks"
    )
    negative_power: float = _option(
        1.0, "negatives are drawn from training counts to this power; 0 = uniform"
    )


@dataclass
class MealRecConfig:
    """The whole model.

    `videos`, `frames`, `width` and `max_length` come from the data set when the trainer builds it.
    """

    videos: int = _option(0, "I, videos of the data set")
    frames: int = _option(0, "M, frames per video in the data set; 0 = no features")
    width: int = _option(0, "d_v, raw width of a frame's features; 0 = no features")
    max_length: int = _option(50, "L, positions of a history")
    dim: int = _option(64, "d, model width")
    use_video: bool = _option(True, "use the frame features where the data set has them")
    use_ids: bool = _option(True, "learn an embedding for each video; false: content alone stands for it")
    item_bias: bool = _option(
        False, "learn a bias for each video, which starts as the log of its training count"
    )
    content_half: float = _option(
        0.0,
        "content in the videos' embeddings too: half of it for a video with this many training interactions,"
        " more for rarer ones; 0 = none",
    )
    content_dropout: float = _option(0.3, "dropout on the content in the videos' embeddings")
    shuffle_frames: bool = _option(False, "for comparisons: the frames of each video in a drawn order")
    feature_noise: float = _option(
        0.0,
        "sigma of the robustness study: in evaluation, features + sigma * eps, with features in standard"
        " deviations and eps drawn for each view",
    )
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    tcd: TCDConfig = field(default_factory=TCDConfig)
    npd: NPDConfig = field(default_factory=NPDConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    kernel: Literal["auto", "cuda", "cpu", "reference"] = _option(
        "auto", "implementation of the fused operations; auto: the fused kernels where they are available"
    )

    @property
    def has_video(self) -> bool:
        """Whether the model uses frame features: they exist and are wanted."""
        return self.use_video and self.frames > 0

    @property
    def has_tcd(self) -> bool:
        """Whether TCD runs: only where there are features to refine."""
        return self.tcd.enabled and self.has_video

    @property
    def has_content(self) -> bool:
        """Whether content is part of the videos' embeddings."""
        return self.has_video and (self.content_half > 0 or not self.use_ids)

    @property
    def samples_negatives(self) -> bool:
        """Whether the softmax of the next-video loss is a sampled one."""
        choice = self.objective.softmax
        return choice == "sampled" or (choice == "auto" and self.videos > FULL_SOFTMAX_VIDEOS)

    @property
    def has_tcd_loss(self) -> bool:
        """Whether TCD denoises, and so has a loss."""
        return self.has_tcd and self.tcd.control == "none"

    @property
    def has_npd_loss(self) -> bool:
        """Whether NPD denoises, and so has a loss."""
        return self.npd.enabled and self.npd.control == "none"

    def validate(self) -> None:
        """Raise ConfigError for the first field that cannot work."""
        _require(self.videos >= 1, "model.videos", self.videos, "at least 1")
        _require(
            (self.frames > 0) == (self.width > 0),
            "model.width",
            self.width,
            "frames and width both 0 or both positive",
        )
        _require(self.max_length >= 1, "model.max_length", self.max_length, "at least 1")
        _require(self.dim >= 2 and self.dim % 2 == 0, "model.dim", self.dim, "an even number")
        _require(self.backbone.layers >= 1, "model.backbone.layers", self.backbone.layers, "at least 1")
        _require(
            0 <= self.backbone.dropout < 1, "model.backbone.dropout", self.backbone.dropout, "0 <= p < 1"
        )
        if self.backbone.name == "sasrec":
            _require(
                self.dim % self.backbone.heads == 0,
                "model.backbone.heads",
                self.backbone.heads,
                f"a divisor of dim {self.dim}",
            )
        if self.has_tcd:
            _require(
                self.dim % self.tcd.heads == 0,
                "model.tcd.heads",
                self.tcd.heads,
                f"a divisor of dim {self.dim}",
            )
            _require(
                self.dim % self.tcd.pool_heads == 0,
                "model.tcd.pool_heads",
                self.tcd.pool_heads,
                f"a divisor of dim {self.dim}",
            )
        _require(
            self.use_ids or self.has_video, "model.use_ids", self.use_ids, "true where there are no features"
        )
        _require(self.content_half >= 0, "model.content_half", self.content_half, "at least 0")
        _require(0 <= self.content_dropout < 1, "model.content_dropout", self.content_dropout, "0 <= p < 1")
        self.tcd.validate("model.tcd")
        self.npd.validate("model.npd")
        _require(self.npd.hidden >= 1, "model.npd.hidden", self.npd.hidden, "at least 1")
        _require(self.feature_noise >= 0, "model.feature_noise", self.feature_noise, "at least 0")
        _require(
            self.objective.negatives >= 1, "model.objective.negatives", self.objective.negatives, "at least 1"
        )
        _require(
            self.objective.negative_power >= 0,
            "model.objective.negative_power",
            self.objective.negative_power,
            "at least 0",
        )


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
