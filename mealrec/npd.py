"""NPD, Noise-unconditional Preference Denoising [paper: blind; form HorizonRec]: refines the user's
preference at each position without being told how noisy it is.

Legend: R rows (positions), D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mealrec import ops
from mealrec.config import NPDConfig
from mealrec.noise import Noise
from mealrec.ops import Stream
from mealrec.tcd import schedule_of, step_embedding


class PreferenceDenoiser(nn.Module):
    """`D(h_n, q)`: a residual MLP with a zero start, so that it is a denoiser by its form [ours]; no step
    reaches it [paper].

    `noise_conditional` adds the step for the ablation.
    """

    def __init__(self, dim: int, config: NPDConfig):
        super().__init__()
        hidden = config.hidden * dim
        self.preference = nn.Linear(dim, hidden)
        self.query = nn.Linear(dim, hidden, bias=False)
        self.step = nn.Linear(dim, hidden, bias=False) if config.noise_conditional else None
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h_RD: torch.Tensor, q_RD: torch.Tensor, n_R: torch.Tensor) -> torch.Tensor:
        """Corrupted preference h, query q [R, D] -> the prediction of the clean preference, [R, D]."""
        y_RH = self.preference(h_RD) + self.query(q_RD)
        if self.step is not None:
            y_RH = y_RH + self.step(step_embedding(n_R, h_RD.shape[1], h_RD.dtype))
        return h_RD + self.out(F.silu(self.middle(F.silu(y_RH))))


class NPD(nn.Module):
    """Corrupts and denoises the preference, and mixes the two: `u = w hhat + (1 - w) h`."""

    def __init__(self, dim: int, config: NPDConfig):
        super().__init__()
        self.config = config
        self.schedule = schedule_of(config)
        self.denoiser = PreferenceDenoiser(dim, config)

    def forward(
        self,
        h_RD: torch.Tensor,
        q_RD: torch.Tensor,
        noise: Noise,
        sampler_steps: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Preferences h and queries q [R, D], `noise` standing at the same R positions -> `u` [R, D] and, in
        training, the sum of L_NPD. In evaluation the chain runs from `infer_start` in
        `sampler_steps` steps (0 = all); only the sampler's coefficients know the step.
        """
        if self.training:
            hhat_RD, loss = self._train(h_RD, q_RD, noise)
        else:
            hhat_RD, loss = self._infer(h_RD, q_RD, noise, sampler_steps), None
        return self.config.mix * hhat_RD + (1 - self.config.mix) * h_RD, loss

    def _train(
        self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clean_RD = h_RD.detach() if self.config.detach_input else h_RD
        noisy_RD, n_R = ops.corrupt(
            clean_RD,
            self.schedule,
            noise.positions(),
            Stream.NPD_NOISE,
            Stream.NPD_STEP,
            kernel=noise.kernel,
        )
        hhat_RD = self.denoiser(noisy_RD, q_RD, n_R)
        return hhat_RD, ops.diffusion_loss(hhat_RD, h_RD.detach(), kernel=noise.kernel)

    def _infer(
        self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise, sampler_steps: int
    ) -> torch.Tensor:
        start = ops.infer_start(self.schedule, self.config.infer_start, self.config.infer_signal)
        n_R = torch.full((len(h_RD),), start, dtype=torch.int64, device=h_RD.device)
        x_RD = ops.q_sample(
            h_RD,
            n_R,
            self.schedule,
            noise.at_step(0).positions(),
            Stream.NPD_INFER_START,
            kernel=noise.kernel,
        )
        for index, (t, t_prev) in enumerate(ops.chain(start, sampler_steps)):
            t_R = torch.full_like(n_R, t)
            x_RD = ops.reverse_step(
                x_RD,
                self.denoiser(x_RD, q_RD, t_R),
                t_R,
                torch.full_like(t_R, t_prev),
                self.schedule,
                noise.at_step(index).positions(),
                Stream.NPD_INFER_STEP,
                sampler=self.config.sampler,
                eta=self.config.eta,
                kernel=noise.kernel,
            )
        return x_RD
