"""Reverse steps against float64 NumPy, and the steps of a chain."""

import numpy as np
import pytest
import torch

from mealrec.ops import Counters, Sampler, Schedule, chain, normal, reverse_step, tables
from mealrec.ops.sampler import reverse_coefficients


def make_counters(rows, step=2):
    return Counters(torch.tensor(11), torch.tensor(step), torch.arange(rows), torch.arange(rows) * 8)


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


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("stride", [1, 3])
def test_reverse_step_against_numpy(name, eta, stride):
    schedule, rows, width = Schedule("linear", 20), 20, 5
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, rows, width, generator=generator)
    t = torch.arange(rows)
    prev = (t - stride).clamp_min(-1)
    sampler = Sampler(name, eta)
    result = reverse_step(x, x0, t, prev, schedule, make_counters(rows), 6, sampler=sampler).double().numpy()

    betas = np.linspace(1e-3, 2e-2, 20)
    full = np.concatenate([[1.0], np.cumprod(1 - betas)])
    abar, abar_prev = full[t.numpy() + 1][:, None], full[prev.numpy() + 1][:, None]
    a = abar / abar_prev
    b = 1 - a
    eps = normal(make_counters(rows), width, 6).double().numpy()
    xn, x0n = x.double().numpy(), x0.double().numpy()
    posterior = b * np.sqrt(abar_prev) / (1 - abar) * x0n + (1 - abar_prev) * np.sqrt(a) / (1 - abar) * xn
    variance = b * (1 - abar_prev) / (1 - abar)
    if name == "ddpm":
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


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sqrt"])
def test_coefficients_keep_their_digits_with_many_steps(name, schedule):
    """`1 - abar / prev` would have lost three to four of them where a step changes little."""
    abar = tables(Schedule(schedule, 1000, 1e-4, 2e-2), torch.device("cpu")).abar
    t, sampler = torch.arange(1, 1000), Sampler(name, eta=0.5)
    narrow = reverse_coefficients(abar, t, t - 1, sampler)
    wide = reverse_coefficients(abar.double(), t, t - 1, sampler)
    # The prediction's weight in DDIM is a difference of two of about 1.
    absolute = 1e-6 if name == "ddim" else 0
    for mine, truth in zip(narrow, wide, strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=2e-6, atol=absolute)


def test_ddim_with_full_noise_is_ddpm():
    schedule, rows = Schedule("cosine", 12), 11
    x, x0 = torch.randn(2, rows, 4, generator=torch.Generator().manual_seed(1))
    t = torch.arange(1, rows + 1)
    results = [
        reverse_step(x, x0, t, t - 1, schedule, make_counters(rows), 2, sampler=Sampler(name, eta=1.0))
        for name in ("ddpm", "ddim")
    ]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_guidance_combines_two_predictions():
    schedule, t = Schedule("linear", 10), torch.tensor([5, 5])
    x, x0, null = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(2))
    counters, sampler = make_counters(2), Sampler(guidance=0.7)
    guided = reverse_step(x, x0, t, t - 1, schedule, counters, 1, sampler=sampler, null_RD=null)
    expected = reverse_step(x, 1.7 * x0 - 0.7 * null, t, t - 1, schedule, counters, 1)
    torch.testing.assert_close(guided, expected)
