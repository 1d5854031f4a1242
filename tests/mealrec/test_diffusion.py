"""What both diffusions share: corruption per video, and the reverse chain with any denoiser."""

import pytest
import torch

from mealrec.config import TCDConfig
from mealrec.diffusion import Diffusion, Streams
from mealrec.noise import Noise
from mealrec.ops import RandomStream
from tests.mealrec.small import FRAMES

STREAMS = Streams(
    RandomStream.TCD_STEP, RandomStream.TCD_NOISE, RandomStream.TCD_INFER_START, RandomStream.TCD_INFER_STEP
)


@pytest.fixture
def noise(batch):
    return Noise.of_batch(batch, FRAMES, "auto")


def rows_of(noise):
    count = noise.position_BL.numel() * FRAMES
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(3))


def test_frames_of_a_video_share_a_step(noise):
    x0 = rows_of(noise)
    _, t = Diffusion(TCDConfig(), STREAMS).corrupt(x0, noise, FRAMES)
    t = t.view(-1, FRAMES)
    assert (t == t[:, :1]).all() and len(t.unique()) > 5


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_perfect_denoiser_gives_the_content_back(noise, sampler, steps):
    x0, calls = rows_of(noise), []
    diffusion = Diffusion(TCDConfig(sampler=sampler, infer_signal=0.9), STREAMS)

    def denoise(x_RD, t_R):
        calls.append(int(t_R[0]))
        assert not torch.equal(x_RD, x0)
        return x0, None

    assert torch.equal(diffusion.refine(x0, denoise, noise, steps, FRAMES), x0)
    assert calls[0] == diffusion.start and len(calls) == (steps or diffusion.start + 1)


def test_guidance_uses_the_prediction_under_the_null_condition(noise):
    x0 = rows_of(noise)
    diffusion = Diffusion(TCDConfig(), STREAMS, guidance=0.5)
    guided = diffusion.refine(x0, lambda x_RD, t_R: (x0, 2 * x0), noise, 1, FRAMES)
    torch.testing.assert_close(guided, 1.5 * x0 - 0.5 * 2 * x0)


def test_rows_outside_the_mask_become_zero(noise):
    x0 = rows_of(noise)
    mask = torch.arange(len(x0)) % 3 != 1
    x = Diffusion(TCDConfig(), STREAMS).refine(x0, lambda x_RD, t_R: (x0, None), noise, 0, FRAMES, mask)
    assert not x[~mask].any() and torch.equal(x[mask], x0[mask])
