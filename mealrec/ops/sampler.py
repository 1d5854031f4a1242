"""Samplers of the reverse chain: what they are, their coefficients, and the steps that a chain visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampler:
    """How a reverse step is made.

    name: "ddim" or "ddpm"; eta: noise of DDIM, 0 deterministic, 1 as much as DDPM; guidance: w of
    classifier-free guidance, `x0hat := (1 + w) x0hat - w null` [DreamRec], used where there is a prediction
    under the null condition.

    Raises:
        ValueError: the name is unknown.
    """

    name: str = "ddim"
    eta: float = 0.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("ddim", "ddpm"):
            raise ValueError(f"sampler is {self.name!r}, expected ddim or ddpm")

    @property
    def ddpm(self) -> bool:
        """Whether a step is DDPM's."""
        return self.name == "ddpm"

    @property
    def noisy(self) -> bool:
        """Whether a step adds noise."""
        return self.ddpm or self.eta > 0


DDIM = Sampler()


def reverse_coefficients(
    abar: torch.Tensor, t_R: torch.Tensor, t_prev_R: torch.Tensor, sampler: Sampler
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights [R, 1] of `x0hat`, `x_t` and the noise in a reverse step; `abar` [T+1] as in `Tables`.

    With fewer steps than T, `a = abar_t / abar_prev`, `b = 1 - a`, for both samplers; `b` is computed as
    `(abar_prev - abar_t) / abar_prev`, as rounding of `a` would be most of a small `b`.
    ddpm: mean `[b sqrt(abar_prev) / (1 - abar_t)] x0hat + [(1 - abar_prev) sqrt(a) / (1 - abar_t)] x_t`,
    variance `b (1 - abar_prev) / (1 - abar_t)` [DDPM]; ddim: [DDIM] eq. 12 with `eta`. Where `t_prev` is -1:
    the prediction alone.
    """
    now, prev = abar[t_R + 1, None], abar[t_prev_R + 1, None]
    alpha = now / prev
    beta, rest = (prev - now) / prev, 1 - now
    sigma = (beta * (1 - prev) / rest).sqrt()
    if sampler.ddpm:
        x0hat, x = beta * prev.sqrt() / rest, (1 - prev) * alpha.sqrt() / rest
    else:
        sigma = sampler.eta * sigma
        x = ((1 - prev - sigma**2).clamp_min(0) / rest).sqrt()
        x0hat = prev.sqrt() - x * now.sqrt()
    last = t_prev_R[:, None] < 0
    return torch.where(last, 1, x0hat), torch.where(last, 0, x), torch.where(last, 0, sigma)


def chain(start: int, steps: int = 0) -> list[tuple[int, int]]:
    """Pairs `(t, t_prev)` of the reverse chain from `start` to 0; `t_prev = -1` ends it.

    steps: 0 = every step, else that many, evenly spaced.
    """
    count = start + 1 if steps <= 0 else min(steps, start + 1)
    times = [start] if count == 1 else [round(start * (count - 1 - i) / (count - 1)) for i in range(count)]
    return list(zip(times, times[1:] + [-1], strict=True))
