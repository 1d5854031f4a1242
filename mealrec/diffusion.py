"""What both diffusions share: schedule, corruption in training and the reverse chain of inference.

Legend: R rows (frames of videos, or positions), D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from mealrec import ops
from mealrec.config import DiffusionConfig
from mealrec.noise import Noise
from mealrec.ops import RandomStream, Sampler, Schedule
from mealrec.skill import levels, skill_of

Denoise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""From `x_t` [R, D] and the steps int64 [R], predictions of `x_0` [R, D]: the prediction itself, and with
classifier-free guidance the one under the null condition."""


class Streams(NamedTuple):
    """Random streams of a diffusion: step and noise of training, start and steps of inference."""

    step: RandomStream
    noise: RandomStream
    infer_start: RandomStream
    infer_step: RandomStream


class Diffusion:
    """A diffusion of rows, with any denoiser.

    `noise` always belongs to the rows; `frames` says how many rows a position has, rows that `mask_R` leaves
    out become zero, and `row_R` says which of `x0` each row is made from, by default the row itself.
    """

    def __init__(self, config: DiffusionConfig, streams: Streams, guidance: float = 0.0):
        self.schedule = schedule_of(config)
        self.sampler = Sampler(config.sampler, config.eta, guidance)
        self.start = ops.infer_start(self.schedule, config.infer_start, config.infer_signal)
        self.streams = streams

    def corrupt(
        self,
        x0_RD: torch.Tensor,
        noise: Noise,
        frames: int = 1,
        mask_R: torch.Tensor | None = None,
        row_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`x_t` [R, D] at a random step, one for all frames of a video, and the steps int64 [R]."""
        return ops.corrupt(
            x0_RD,
            self.schedule,
            noise.counters(frames),
            self.streams.noise,
            self.streams.step,
            group=noise.frames,
            mask_R=mask_R,
            row_R=row_R,
            kernel=noise.kernel,
        )

    def state(
        self, t: int, x0_RD: torch.Tensor, noise: Noise, frames: int = 1, row_R: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`x_t` [R, D] at a step for the guards, and the steps int64 [R]."""
        counters = noise.at_step(0).counters(frames)
        x_RD = ops.q_sample(x0_RD, t, self.schedule, counters, self.streams.infer_start, row_R=row_R)
        return x_RD, torch.full((len(x_RD),), t, device=x_RD.device)

    def skills(
        self,
        x0_RD: torch.Tensor,
        denoise: Denoise,
        noise: Noise,
        mask_R: torch.Tensor,
        frames: int = 1,
        row_R: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Skill over the identity and over a linear map at low, middle and high noise, by name."""
        clean_RD = x0_RD if row_R is None else x0_RD[row_R]
        skills: dict[str, torch.Tensor] = {}
        for level, t in levels(self.schedule.steps).items():
            x_RD, t_R = self.state(t, x0_RD, noise, frames, row_R)
            skill = skill_of(denoise(x_RD, t_R)[0], x_RD, clean_RD, mask_R)
            skills |= {f"{level}_identity": skill.over_identity, f"{level}_linear": skill.over_linear}
        return skills

    def refine(
        self,
        x0_RD: torch.Tensor,
        denoise: Denoise,
        noise: Noise,
        steps: int = 0,
        frames: int = 1,
        mask_R: torch.Tensor | None = None,
        row_R: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Corrupt to `infer_start` and run the reverse chain from there in `steps` steps (0 = all), [R, D].

        The noise has a fixed seed and streams of its own, counted by the chain's step.
        """
        x_RD = ops.q_sample(
            x0_RD,
            self.start,
            self.schedule,
            noise.at_step(0).counters(frames),
            self.streams.infer_start,
            mask_R=mask_R,
            row_R=row_R,
            kernel=noise.kernel,
        )
        for index, (t, t_prev) in enumerate(ops.chain(self.start, steps)):
            x0hat_RD, null_RD = denoise(x_RD, torch.full(x_RD.shape[:1], t, device=x_RD.device))
            x_RD = ops.reverse_step(
                x_RD,
                x0hat_RD,
                t,
                t_prev,
                self.schedule,
                noise.at_step(index).counters(frames),
                self.streams.infer_step,
                sampler=self.sampler,
                null_RD=null_RD,
                mask_R=mask_R,
                kernel=noise.kernel,
            )
        return x_RD


def schedule_of(config: DiffusionConfig) -> Schedule:
    """The noise schedule that a diffusion's configuration names."""
    return Schedule(config.schedule, config.steps, config.beta_start, config.beta_end)


def step_embedding(t_N: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Sinusoidal embedding of diffusion steps [DDPM], `[N, dim]`."""
    rates = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t_N.device) / (dim // 2))
    angle = t_N[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype)


def shuffled(x: torch.Tensor) -> torch.Tensor:
    """Every row gets its neighbour's values: what the guards give a denoiser in place of its input."""
    return x.roll(1, 0)
