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
from mealrec.diffusion import Denoise, Diffusion, Streams, shuffled, step_embedding
from mealrec.noise import Noise
from mealrec.ops import RandomStream

STREAMS = Streams(
    RandomStream.NPD_STEP, RandomStream.NPD_NOISE, RandomStream.NPD_INFER_START, RandomStream.NPD_INFER_STEP
)
SCALE = 2.0
"""k: preferences are diffused at this multiple of their size."""
LEAST, MOST = 0.02, 1 - 1e-4  # abar, as it is read off a norm: at 1 the noise's root has no derivative


class PreferenceDenoiser(nn.Module):
    """`D(x, q)`, `x = k sqrt(abar) h + sqrt(1 - abar) eps`: the best simple estimate, and a correction [EDM].

    No step reaches it [paper]; `noise_conditional` adds the step for the ablation. A preference h is
    layer-normed, so its states at its own size have the same norm at all noise levels, and a blind denoiser
    cannot tell them apart. At k times the size `|x|^2 / D = 1 + (k^2 - 1) abar` on average, which gives the
    noise away [Sun et al. 2502.13129: blind denoising; ours: the scale]. Then
    `k^2 sqrt(abar) / (1 + (k^2 - 1) abar) x` is the best linear estimate of `k h` for unit variance; the
    correction, an MLP, starts at zero and vanishes with the noise.
    """

    def __init__(self, dim: int, config: NPDConfig):
        super().__init__()
        hidden = config.hidden * dim
        self.preference = nn.Linear(dim, hidden)
        self.query = nn.Linear(dim, hidden, bias=False)
        self.level = nn.Linear(1, hidden, bias=False)
        self.step = nn.Linear(dim, hidden, bias=False) if config.noise_conditional else None
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_RD: torch.Tensor, q_RD: torch.Tensor, n_R: torch.Tensor) -> torch.Tensor:
        """Predict `x_0 = k h` [R, D] from the state x and the query q [R, D]."""
        gain = SCALE**2 - 1
        abar_R1 = ((x_RD.float().square().mean(1, keepdim=True) - 1) / gain).clamp(LEAST, MOST)
        power_R1 = 1 + gain * abar_R1
        noise_R1 = (1 - abar_R1).sqrt()
        skip_R1, out_R1, unit_R1, told_R1 = (
            part.to(x_RD.dtype)
            for part in (
                SCALE**2 * abar_R1.sqrt() / power_R1,
                SCALE * noise_R1 * power_R1.rsqrt(),
                power_R1.rsqrt(),
                noise_R1,
            )
        )
        y_RH = self.preference(unit_R1 * x_RD) + self.query(q_RD) + self.level(told_R1)
        if self.step is not None:
            y_RH = y_RH + self.step(step_embedding(n_R, x_RD.shape[1], x_RD.dtype))
        correction_RD: torch.Tensor = self.out(F.silu(self.middle(F.silu(y_RH))))
        return torch.addcmul(skip_R1 * x_RD, out_R1, correction_RD)


class NPD(nn.Module):
    """Corrupts and denoises the preference, and mixes the two: `u = w hhat + (1 - w) h`.

    The ranking loss wants `hhat` to be where it ranks well, not where `h` is: by its gradient a denoiser gets
    worse than a linear map. So it is passed straight through, `hhat` as `h` and a constant [ours], and L_NPD
    alone trains the denoiser, with equal weight for all noise levels.
    """

    weight: torch.Tensor

    def __init__(self, dim: int, config: NPDConfig):
        super().__init__()
        self.config = config
        self.diffusion = Diffusion(config, STREAMS)
        self.denoiser = PreferenceDenoiser(dim, config)
        abar = torch.from_numpy(ops.schedule.alphas_bar(self.diffusion.schedule))
        # One over the error that the best simple estimate has at a level; 1 on average.
        weight = (1 + (SCALE**2 - 1) * abar) / (1 - abar)
        self.register_buffer("weight", (weight / weight.mean()).float(), persistent=False)

    def forward(
        self,
        h_RD: torch.Tensor,
        q_RD: torch.Tensor,
        noise: Noise,
        sampler_steps: int = 0,
        mask_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Refine preferences h with queries q [R, D]: `u` [R, D] and, in training, the sum of L_NPD.

        `noise` belongs to the same R positions; mask: bool [R], those in the sum. In evaluation the chain
        runs from `infer_start` in `sampler_steps` steps (0 = all); only the sampler's coefficients use the
        step.
        """
        if self.config.control == "no_diffusion":
            first_R = torch.zeros(h_RD.shape[:1], dtype=torch.int64, device=h_RD.device)
            hhat_RD, loss = self.denoiser(SCALE * h_RD, q_RD, first_R) / SCALE, None
        elif self.training:
            hhat_RD, loss = self._train(h_RD, q_RD, noise, mask_R)
        else:
            refined_RD = self.diffusion.refine(SCALE * h_RD, self._denoise(q_RD), noise, sampler_steps)
            hhat_RD, loss = refined_RD / SCALE, None
        return self.config.mix * hhat_RD + (1 - self.config.mix) * h_RD, loss

    def _train(
        self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise, mask_R: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clean_RD = h_RD.detach() if self.config.detach_input else h_RD
        noisy_RD, n_R = self.diffusion.corrupt(SCALE * clean_RD, noise)
        hhat_RD, target_RD = self.denoiser(noisy_RD, q_RD, n_R) / SCALE, h_RD.detach()
        root_R1 = self.weight[n_R, None].sqrt().to(h_RD.dtype)
        loss = ops.diffusion_loss(root_R1 * hhat_RD, root_R1 * target_RD, mask_R, kernel=noise.kernel)
        return h_RD + (hhat_RD - h_RD).detach(), loss

    def _denoise(self, q_RD: torch.Tensor) -> Denoise:
        return lambda x_RD, n_R: (self.denoiser(x_RD, q_RD, n_R), None)

    def guards(self, h_RD: torch.Tensor, q_RD: torch.Tensor, noise: Noise) -> dict[str, torch.Tensor]:
        """Whether the denoiser uses its input, and how well it denoises.

        `npd_h`: the error at the last step with `h_n` shuffled between positions, relative to without;
        `npd_skill_LEVEL_OTHER`: see `Diffusion.skills`.
        """
        x0_RD = SCALE * h_RD
        noisy_RD, n_R = self.diffusion.state(self.config.steps - 1, x0_RD, noise)

        def error(x_RD: torch.Tensor) -> torch.Tensor:
            return ops.diffusion_loss(self.denoiser(x_RD, q_RD, n_R), x0_RD)

        real_R = torch.ones(len(h_RD), dtype=torch.bool, device=h_RD.device)
        skills = self.diffusion.skills(x0_RD, self._denoise(q_RD), noise, real_R)
        guards = {f"npd_skill_{name}": value for name, value in skills.items()}
        return {"npd_h": error(shuffled(noisy_RD)) / error(noisy_RD), **guards}
