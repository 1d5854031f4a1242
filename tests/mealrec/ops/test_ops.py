"""Schedules against their known values; the diffusion operations against float64 NumPy."""

import numpy as np
import pytest
import torch

from mealrec.ops import (
    Counters,
    Schedule,
    chain,
    diffusion_loss,
    dropout,
    infer_start,
    normal,
    q_sample,
    reverse_step,
)
from mealrec.ops.schedule import alphas_bar, tables


def make_counters(rows, step=2):
    return Counters(torch.tensor(11), torch.tensor(step), torch.arange(rows), torch.arange(rows) * 8)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("linear", 10), 0.900),
        (Schedule("linear", 32), 0.713),
        (Schedule("linear", 20, 1e-4), 0.817),
        (Schedule("linear", 10, 1e-4), 0.904),
    ],
)
def test_last_abar(schedule, expected):
    assert alphas_bar(schedule)[-1] == pytest.approx(expected, abs=5e-4)


def test_cosine_and_sqrt_end_near_zero():
    assert alphas_bar(Schedule("cosine", 32))[-1] == pytest.approx(2e-7, rel=0.3)
    for T in (5, 20):
        t = np.arange(T)
        expected = np.maximum(1 - np.sqrt((t + 1) / T + 1e-4), 1e-4)
        np.testing.assert_allclose(alphas_bar(Schedule("sqrt", T)), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_schedules_lose_signal_and_start_where_half_is_left(name, steps):
    abar = alphas_bar(Schedule(name, steps))
    assert len(abar) == steps and (np.diff(np.concatenate([[1.0], abar])) < 0).all() and (abar > 0).all()
    start = infer_start(Schedule(name, steps))
    assert start == 0 or abar[start] >= 0.5
    assert start == steps - 1 or abar[start + 1] < 0.5
    assert infer_start(Schedule(name, steps), steps - 1) == steps - 1
    late = infer_start(Schedule(name, steps), -1, 0.96)
    assert late <= start and (late == 0 or abar[late] >= 0.96)
    table = tables(Schedule(name, steps), torch.device("cpu"))
    assert table.abar.dtype == torch.float32 and float(table.abar[0]) == 1.0


def test_unknown_schedule():
    with pytest.raises(ValueError, match="unknown schedule 'square'"):
        alphas_bar(Schedule("square"))


def test_chains():
    assert chain(3) == [(3, 2), (2, 1), (1, 0), (0, -1)]
    assert chain(9, 1) == [(9, -1)]
    assert chain(9, 2) == [(9, 0), (0, -1)]
    assert chain(0, 5) == [(0, -1)]
    for start in range(12):
        for steps in range(1, 15):
            pairs = chain(start, steps)
            assert len(pairs) == min(steps, start + 1) and pairs[0][0] == start and pairs[-1][1] == -1
            assert all(t > t_prev for t, t_prev in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_q_sample_against_numpy(dtype):
    schedule, rows, width = Schedule("linear", 10), 13, 6
    x0, t, counters = torch.randn(rows, width).to(dtype), torch.arange(rows) % 10, make_counters(rows)
    abar = alphas_bar(schedule)[t.numpy()][:, None]
    eps = normal(counters, width, 4).double().numpy()
    expected = np.sqrt(abar) * x0.double().numpy() + np.sqrt(1 - abar) * eps
    result = q_sample(x0, t, schedule, counters, 4)
    assert result.dtype == dtype
    np.testing.assert_allclose(
        result.double().numpy(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5
    )


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("stride", [1, 3])
def test_reverse_step_against_numpy(sampler, eta, stride):
    schedule, rows, width = Schedule("linear", 20), 20, 5
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, rows, width, generator=generator)
    t = torch.arange(rows)
    prev = (t - stride).clamp_min(-1)
    result = reverse_step(x, x0, t, prev, schedule, make_counters(rows), 6, sampler=sampler, eta=eta).double().numpy()

    betas = np.linspace(1e-3, 2e-2, 20)
    full = np.concatenate([[1.0], np.cumprod(1 - betas)])
    abar, abar_prev = full[t.numpy() + 1][:, None], full[prev.numpy() + 1][:, None]
    a = abar / abar_prev
    b = 1 - a
    eps = normal(make_counters(rows), width, 6).double().numpy()
    xn, x0n = x.double().numpy(), x0.double().numpy()
    posterior = b * np.sqrt(abar_prev) / (1 - abar) * x0n + (1 - abar_prev) * np.sqrt(a) / (1 - abar) * xn
    variance = b * (1 - abar_prev) / (1 - abar)
    if sampler == "ddpm":
        expected = posterior + np.sqrt(variance) * eps
    else:
        noise_hat = (xn - np.sqrt(abar) * x0n) / np.sqrt(1 - abar)
        sigma = eta * np.sqrt(variance)
        expected = (
            np.sqrt(abar_prev) * x0n
            + np.sqrt(np.maximum(1 - abar_prev - sigma**2, 0)) * noise_hat
            + sigma * eps
        )
    expected = np.where(prev.numpy()[:, None] < 0, x0n, expected)
    np.testing.assert_allclose(result, expected, rtol=2e-4, atol=2e-5)


def test_ddim_with_full_noise_is_ddpm():
    schedule, rows = Schedule("cosine", 12), 11
    x, x0 = torch.randn(2, rows, 4, generator=torch.Generator().manual_seed(1))
    t = torch.arange(1, rows + 1)
    results = [
        reverse_step(x, x0, t, t - 1, schedule, make_counters(rows), 2, sampler=s, eta=1.0) for s in ("ddpm", "ddim")
    ]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_guidance_combines_two_predictions():
    schedule, t = Schedule("linear", 10), torch.tensor([5, 5])
    x, x0, null = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(2))
    guided = reverse_step(x, x0, t, t - 1, schedule, make_counters(2), 1, null_RD=null, guidance=0.7)
    torch.testing.assert_close(
        guided, reverse_step(x, 1.7 * x0 - 0.7 * null, t, t - 1, schedule, make_counters(2), 1)
    )


def test_diffusion_loss_and_its_gradient():
    prediction = torch.randn(6, 5, requires_grad=True)
    target, mask = torch.randn(6, 5), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    loss = diffusion_loss(prediction, target, mask)
    loss.backward()
    expected = ((prediction.detach() - target) ** 2 * mask[:, None] / 5).sum()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(
        prediction.grad, 2 * (prediction.detach() - target) * mask[:, None] / 5, rtol=1e-5, atol=1e-6
    )


def test_dropout_keeps_the_mean_and_adds_the_residual():
    x, residual = torch.ones(4000, 8), torch.full((4000, 8), 3.0)
    dropped = dropout(x, 0.2, make_counters(4000), 64)
    assert set(dropped.unique().tolist()) == {0.0, 1.25} and float(dropped.mean()) == pytest.approx(
        1.0, abs=0.02
    )
    torch.testing.assert_close(dropout(x, 0.2, make_counters(4000), 64, residual_RD=residual), dropped + 3)
    assert torch.equal(dropout(x, 0.0, make_counters(4000), 64), x)
