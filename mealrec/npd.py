"""NPD, Noise-unconditional Preference Denoising [paper: blind; form HorizonRec].

Refines the user's preference at each position; the denoiser does not know how noisy it is.

Legend: R rows (positions), D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mealrec import ops
from mealrec.config import NPDConfig
from mealrec.diffusion import Diffusion, Streams, shuffled, step_embedding
from mealrec.noise import Noise
from mealrec.ops import RandomStream

STREAMS = Streams(
    RandomStream.NPD_STEP, RandomStream.NPD_NOISE, RandomStream.NPD_INFER_START, RandomStream.NPD_INFER_STEP
)


class PreferenceDenoiser(nn.Module):
    """`D(h_n, q)`: a residual MLP with a zero start, which makes it a denoiser by its form [ours].

    No step reaches it [paper]; `noise_conditional` adds the step for the ablation.
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
        """Predict the clean preference [R, D] from the corrupted one h and the query q [R, D]."""
        y_RH = self.preference(h_RD) + self.query(q_RD)
        if self.step is not None:
            y_RH = y_RH + self.step(step_embedding(n_R, h_RD.shape[1], h_RD.dtype))
        correction: torch.Tensor = self.out(F.silu(self.middle(F.silu(y_RH))))
        return h_RD + correction


class NPD(nn.Module):
    """Corrupts and denoises the preference, and mixes the two: `u = w hhat + (1 - w) h`."""

    def __init__(self, dim: int, config: NPDConfig):
        super().__init__()
        self.config = config
        self.diffusion = Diffusion(config, STREAMS)
        self.denoiser = PreferenceDenoiser(dim, config)

    def forward(
        self,
        h_RD: torch.Tensor,
        q_RD: torch.Tensor,
        noise: Noise,
        sampler_steps: int = 0,
        mask_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Refine preferences h with queries q [R, D]: `u` [R, D] and, in training, the sum of L_NPD.

        `noise` belongs to the same R positions; mask: bool [R], those in the sum. In evaluation the chain runs from `infer_start` in
        `sampler_steps` steps (0 = all); only the sampler's coefficients use the step.
        """
        if self.training:
            hhat_RD, loss = self._train(h_RD, q_RD, noise, mask_R)
        else:
            hhat_RD, loss = self._infer(h_RD, q_RD, noise, sampler_steps), None
        return self.config.mix * hhat_RD + (1 - self.config.mix) * h_RD, loss

    def _train(
        self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise, mask_R: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clean_RD = h_RD.detach() if self.config.detach_input else h_RD
        noisy_RD, n_R = self.diffusion.corrupt(clean_RD, noise)
        hhat_RD = self.denoiser(noisy_RD, q_RD, n_R)
        return hhat_RD, ops.diffusion_loss(hhat_RD, h_RD.detach(), mask_R, kernel=noise.kernel)

    def _infer(
        self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise, sampler_steps: int
    ) -> torch.Tensor:
        def denoise(x_RD: torch.Tensor, n_R: torch.Tensor) -> tuple[torch.Tensor, None]:
            return self.denoiser(x_RD, q_RD, n_R), None

        return self.diffusion.refine(h_RD, denoise, noise, sampler_steps)

    def guards(self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise) -> dict[str, torch.Tensor]:
        """`npd_h`: the error at the last step with `h_n` shuffled between positions, relative to without."""
        noisy_RD, n_R = self.diffusion.last_state(h_RD, noise)

        def error(x_RD: torch.Tensor) -> torch.Tensor:
            return ops.diffusion_loss(self.denoiser(x_RD, q_RD, n_R), h_RD)

        return {"npd_h": error(shuffled(noisy_RD)) / error(noisy_RD)}
