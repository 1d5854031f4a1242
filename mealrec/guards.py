"""Guards against collapse: do the denoisers use what they are told, and do contents and preferences keep
their spread? Figures for the log, from one batch.

A ratio compares the error with an input shuffled between positions to the error without: near 1, the denoiser
has stopped to use that input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mealrec import ops
from mealrec.noise import Batch, Noise
from mealrec.ops import Stream

if TYPE_CHECKING:
    from mealrec.model import MealRec
    from mealrec.npd import NPD
    from mealrec.tcd import TCD


@torch.no_grad()
def guards(model: MealRec, batch: Batch) -> dict[str, torch.Tensor]:
    """Float32 scalars: `tcd_x`, `tcd_g`, `tcd_c`, `npd_h` ratios of errors, `content_variance` of F and
    `preference_variance` of h over the batch; those of parts that are switched off are missing. At each
    diffusion's last step, where the inputs matter most.
    """
    noise = Noise.of(batch, model.config.frames, model.config.kernel)
    encoded = model.encode(batch, *model.rows(batch["item"]), noise, sampler_steps=1)
    place_N, noise = encoded.place_N, noise.only(encoded.place_N)
    h_ND = encoded.h_BLD.flatten(0, 1)[place_N]
    found = {"preference_variance": h_ND.float().var(0).mean()}
    if model.config.has_video:
        found["content_variance"] = encoded.F_UMD[encoded.mask_UM].float().var(0).mean()
    if model.config.has_tcd:
        told = model.tcd.inputs(
            encoded.F_UMD, encoded.mask_UM, batch["feature_row"], encoded.e_BLD, batch["item"] > 0, place_N
        )
        found |= _content(model.tcd, *told, noise)
    if model.config.npd.enabled:
        found["npd_h"] = _preference(model.npd, h_ND, encoded.q_BLD.flatten(0, 1)[place_N], noise)
    return found


def _content(
    tcd: TCD,
    x0_NMD: torch.Tensor,
    mask_NM: torch.Tensor,
    g_NMD: torch.Tensor,
    c_ND: torch.Tensor,
    noise: Noise,
) -> dict[str, torch.Tensor]:
    N, M, _ = x0_NMD.shape
    t_N = torch.full((N,), tcd.config.steps - 1, device=x0_NMD.device)
    place, t_R = noise.at_step(0).of_frames(M), t_N.repeat_interleave(M)
    x_RD = ops.q_sample(x0_NMD.flatten(0, 1), t_R, tcd.schedule, place, Stream.TCD_INFER_START)
    told = {"x": x_RD.view_as(x0_NMD), "g": g_NMD, "c": c_ND}

    def error(shuffled: str = "") -> torch.Tensor:
        x, g, c = (_shuffled(v) if name == shuffled else v for name, v in told.items())
        x0hat_NMD = tcd.denoiser(x, t_N, g, c, mask_NM)
        return ops.diffusion_loss(x0hat_NMD.flatten(0, 1), x0_NMD.flatten(0, 1), mask_NM.flatten())

    whole = error()
    return {f"tcd_{name}": error(name) / whole for name in told}


def _preference(npd: NPD, h_ND: torch.Tensor, q_ND: torch.Tensor, noise: Noise) -> torch.Tensor:
    n_N = torch.full((len(h_ND),), npd.config.steps - 1, device=h_ND.device)
    noisy_ND = ops.q_sample(h_ND, n_N, npd.schedule, noise.at_step(0).positions(), Stream.NPD_INFER_START)
    shuffled, whole = (
        ops.diffusion_loss(npd.denoiser(x_ND, q_ND, n_N), h_ND) for x_ND in (_shuffled(noisy_ND), noisy_ND)
    )
    return shuffled / whole


def _shuffled(x: torch.Tensor) -> torch.Tensor:
    """Every position gets its neighbour's."""
    return x.roll(1, 0)
