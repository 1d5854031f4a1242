"""Guards against collapse: after a short training both denoisers use their inputs, and contents vary.

The toy data: a video is a frame that recurs around a drift whose direction belongs to its id, so that both
its other frames and its id help to predict a noised frame.
"""

import pytest
import torch

from mealrec import MealRec, MealRecConfig
from mealrec.noise import Noise
from mealrec.npd import SCALE
from mealrec.ops import RandomStream, q_sample
from mealrec.ops.schedule import alphas_bar
from tests.mealrec.small import make_batch, make_model

VIDEOS, FRAMES, WIDTH, LENGTH, STEPS = 40, 5, 12, 6, 450


def toy_batch(features, seed, users=24):
    generator = torch.Generator().manual_seed(seed)
    item = torch.randint(1, VIDEOS + 1, (users, LENGTH + 1), generator=generator)
    item[:, 1:] = torch.where(
        torch.rand(users, LENGTH, generator=generator) < 0.8, item[:, :-1] % VIDEOS + 1, item[:, 1:]
    )
    fields = {
        "sample_id": torch.arange(users),
        "item": item[:, :-1],
        "target": item[:, 1:],
        "global_step": torch.tensor(seed),
    }
    frames = torch.full((VIDEOS + 1,), FRAMES)
    return fields | {"features": features, "frames": frames, "feature_row": item[:, :-1]}


def train(**npd):
    """A model and a batch that it has not seen."""
    generator = torch.Generator().manual_seed(0)
    start, drift = torch.randn(2, VIDEOS + 1, 1, WIDTH, generator=generator)
    noise = torch.randn(VIDEOS + 1, FRAMES, WIDTH, generator=generator)
    features = start + drift * torch.linspace(-1, 1, FRAMES)[:, None] + 0.1 * noise
    config = MealRecConfig(videos=VIDEOS, frames=FRAMES, width=WIDTH, max_length=LENGTH, dim=16)
    config.tcd.steps = 50
    config.tcd.loss_weight = 1.0
    for name, value in npd.items():
        setattr(config.npd, name, value)
    model = MealRec(config, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch = toy_batch(features, step)
        optimizer.zero_grad()
        model.objective(model(batch), model.counts(batch)).backward()
        optimizer.step()
    return model.eval(), toy_batch(features, STEPS, users=200)


@pytest.fixture(scope="module")
def trained():
    return train()


@pytest.fixture(scope="module")
def guards(trained):
    return trained[0](trained[1], task="guards")


@pytest.mark.parametrize(("name", "rise"), [("tcd_x", 1.5), ("tcd_g", 1.05), ("tcd_c", 1.05), ("npd_h", 2.0)])
def test_the_denoisers_use_their_inputs(guards, name, rise):
    assert float(guards[name]) > rise


def test_contents_and_preferences_vary(guards):
    assert float(guards["content_variance"]) > 0.1
    assert float(guards["preference_variance"]) > 0.1


@pytest.mark.parametrize("level", ["middle", "high"])
def test_the_content_denoiser_beats_a_linear_map(guards, level):
    assert float(guards[f"tcd_skill_{level}_linear"]) > 0.1


def test_the_preference_denoiser_beats_a_linear_map(guards):
    """Blind, it has to serve all levels at once; each linear map is fitted to one."""
    assert guards["npd_h"] > 2
    assert guards["npd_skill_low_linear"] > -0.02, guards
    for level in ("middle", "high"):
        assert guards[f"npd_skill_{level}_linear"] > 0.02, guards
        assert guards[f"npd_skill_{level}_identity"] > 0.1, guards


def test_the_ranking_loss_does_not_reach_the_preference_denoiser():
    model = make_model().train()
    batch = make_batch()
    model(batch)["rec"].backward()
    assert all(parameter.grad is None for parameter in model.npd.parameters())
    assert model.item.grad.abs().sum() > 0
    model.zero_grad()
    model(batch)["npd"].backward()
    assert all(parameter.grad is not None for parameter in model.npd.parameters())


def test_a_state_without_noise_has_finite_gradients():
    npd = make_model().npd
    x = torch.full((2, npd.denoiser.out.out_features), 2.0, requires_grad=True)  # the norm of a clean one
    torch.nn.init.ones_(npd.denoiser.out.weight)
    npd.denoiser(x, torch.zeros_like(x), torch.zeros(2).long()).sum().backward()
    assert x.grad.isfinite().all()


@torch.no_grad()
def test_the_content_denoiser_beats_the_linear_estimate(trained):
    model, batch = trained
    tcd, noise = model.tcd, Noise.of_batch(batch, FRAMES, "auto")
    encoded = model.encode(batch, *model.rows(noise, batch["item"]), noise)
    x0, row, mask, g, c = tcd.inputs(encoded.histories)
    counters = noise.at_positions(encoded.index_N).counters(FRAMES)
    t = torch.full((len(g),), tcd.config.steps - 1)
    schedule = tcd.diffusion.schedule
    steps = t.repeat_interleave(FRAMES)
    x_t = q_sample(x0, steps, schedule, counters, RandomStream.TCD_NOISE, row_R=row)
    error = (tcd.denoiser(x_t.view_as(g), t, g, c, mask) - x0[row].view_as(g)).square().mean()
    # At unit variance sqrt(abar) x_t reaches 1 - abar.
    assert float(error) < 0.8 * (1 - alphas_bar(schedule)[-1])


@torch.no_grad()
def test_the_preference_denoiser_takes_noise_away(trained):
    model, batch = trained
    noise = Noise.of_batch(batch, FRAMES, "auto")
    encoded = model.encode(batch, *model.rows(noise, batch["item"]), noise)
    h, q = encoded.h_BLD.flatten(0, 1), encoded.q_BLD.flatten(0, 1)
    n = torch.full((len(h),), model.npd.config.steps - 1)
    clean = SCALE * h
    noisy = q_sample(clean, n, model.npd.diffusion.schedule, noise.counters(), RandomStream.NPD_NOISE)
    assert (model.npd.denoiser(noisy, q, n) - clean).square().mean() < 0.9 * (noisy - clean).square().mean()


def test_an_input_that_is_not_used_shows():
    """Untrained, the corrections are zero: guidance and condition change nothing, and the guards show it."""
    guards = make_model().eval()(make_batch(), task="guards")
    assert float(guards["tcd_g"]) == float(guards["tcd_c"]) == 1.0
    assert float(guards["tcd_x"]) > 1.5


@pytest.mark.parametrize(
    "switch", [{"frames": 0, "width": 0}, {"tcd__enabled": False}, {"npd__enabled": False}]
)
def test_guards_of_the_parts_that_are_on(switch):
    guards = make_model(**switch).eval()(make_batch(), task="guards")
    assert "preference_variance" in guards and ("npd_h" in guards) == ("npd__enabled" not in switch)
    assert not any(name.startswith("tcd") for name in guards) or "npd__enabled" in switch
