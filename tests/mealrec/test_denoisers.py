"""Guards against collapse: after a short training both denoisers use what they are told, and contents keep
their spread.

The toy world: a video is a frame that recurs around a drift whose direction belongs to its id, so that both
its other frames and its id tell of a noised frame.
"""

import pytest
import torch

from mealrec import MealRec, MealRecConfig
from mealrec.noise import Noise
from mealrec.ops import Stream, q_sample
from mealrec.ops.schedule import alphas_bar
from mealrec.tcd import recent_mean
from mealrec.video import frame_mask

VIDEOS, FRAMES, WIDTH, LENGTH, STEPS = 40, 5, 12, 6, 450


def toy_batch(features, seed):
    generator = torch.Generator().manual_seed(seed)
    item = torch.randint(1, VIDEOS + 1, (24, LENGTH + 1), generator=generator)
    item[:, 1:] = torch.where(
        torch.rand(24, LENGTH, generator=generator) < 0.8, item[:, :-1] % VIDEOS + 1, item[:, 1:]
    )
    fields = {
        "sample_id": torch.arange(24),
        "item": item[:, :-1],
        "target": item[:, 1:],
        "global_step": torch.tensor(seed),
    }
    frames = torch.full((VIDEOS + 1,), FRAMES)
    return fields | {"features": features, "frames": frames, "feature_row": item[:, :-1]}


@pytest.fixture(scope="module")
def trained():
    generator = torch.Generator().manual_seed(0)
    start, drift = torch.randn(2, VIDEOS + 1, 1, WIDTH, generator=generator)
    noise = torch.randn(VIDEOS + 1, FRAMES, WIDTH, generator=generator)
    features = start + drift * torch.linspace(-1, 1, FRAMES)[:, None] + 0.1 * noise
    config = MealRecConfig(videos=VIDEOS, frames=FRAMES, width=WIDTH, max_length=LENGTH, dim=16)
    config.tcd.steps = config.npd.steps = 50
    config.tcd.loss_weight = 1.0
    model = MealRec(config, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch = toy_batch(features, step)
        optimizer.zero_grad()
        model.objective(model(batch), model.counts(batch)).backward()
        optimizer.step()
    return model.eval(), toy_batch(features, STEPS)


@torch.no_grad()
def content_error(model, batch, shuffled):
    """Mean squared error of the content denoiser at the last step, with one of its inputs shuffled between
    videos.
    """
    noise, tcd = Noise.of(batch, FRAMES, "auto"), model.tcd
    e_BLD = model.item[batch["item"]] * 4
    mask_UM = frame_mask(batch["frames"], FRAMES)
    F_UMD = model.video(batch["features"], mask_UM)
    row_N = batch["feature_row"].flatten()
    x0, g = F_UMD[row_N], tcd.temporal(F_UMD, mask_UM)[row_N]
    summary = recent_mean(e_BLD, batch["item"] > 0, tcd.config.recency)
    c = tcd.condition(torch.cat([e_BLD, summary], dim=2)).flatten(0, 1)
    t = torch.full_like(row_N, tcd.config.steps - 1)
    x_t = q_sample(
        x0.flatten(0, 1), t.repeat_interleave(FRAMES), tcd.schedule, noise.of_frames(FRAMES), Stream.TCD_NOISE
    ).view_as(x0)
    order = torch.randperm(len(row_N), generator=torch.Generator().manual_seed(1))
    inputs = {"x": x_t, "g": g, "c": c}
    if shuffled:
        inputs[shuffled] = inputs[shuffled][order]
    x0hat = tcd.denoiser(inputs["x"], t, inputs["g"], inputs["c"], mask_UM[row_N])
    return float((x0hat - x0).square().mean())


@pytest.mark.parametrize(("shuffled", "rise"), [("x", 1.5), ("g", 1.05), ("c", 1.05)])
def test_the_content_denoiser_uses_what_it_is_told(trained, shuffled, rise):
    assert content_error(*trained, shuffled) > rise * content_error(*trained, None)


def test_the_content_denoiser_beats_the_linear_estimate(trained):
    model, batch = trained
    abar = float(alphas_bar(model.tcd.schedule)[-1])
    assert content_error(model, batch, None) < 0.8 * (1 - abar)


@torch.no_grad()
def test_the_preference_denoiser_uses_its_input(trained):
    model, batch = trained
    noise = Noise.of(batch, FRAMES, "auto")
    h_BLD, q_BLD, _ = model._encode(batch, noise)
    h, q = h_BLD.flatten(0, 1), q_BLD.flatten(0, 1)
    n = torch.full((len(h),), model.npd.config.steps - 1)
    noisy = q_sample(h, n, model.npd.schedule, noise.positions(), Stream.NPD_NOISE)
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(1))

    def error(x):
        return float((model.npd.denoiser(x, q, n) - h).square().mean())

    assert error(noisy[order]) > 2 * error(noisy)
    assert error(noisy) < 0.8 * float((noisy - h).square().mean())


@torch.no_grad()
def test_contents_and_preferences_keep_their_spread(trained):
    model, batch = trained
    mask_UM = frame_mask(batch["frames"], FRAMES)
    F_UMD = model.video(batch["features"], mask_UM)[1:]
    h_BLD, _, _ = model._encode(batch, Noise.of(batch, FRAMES, "auto"))
    assert float(F_UMD.mean(1).var(0).mean()) > 0.1
    assert float(h_BLD.flatten(0, 1).var(0).mean()) > 0.1
