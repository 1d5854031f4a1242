"""Corruption, loss and dropout against float64 NumPy."""

import numpy as np
import pytest
import torch

from mealrec.ops import Counters, Schedule, diffusion_loss, dropout, normal, q_sample, reverse_step
from mealrec.ops.schedule import alphas_bar


def make_counters(rows, step=2):
    return Counters(torch.tensor(11), torch.tensor(step), torch.arange(rows), torch.arange(rows) * 8)


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


def test_one_step_for_all_rows():
    schedule, x, counters = Schedule(), torch.randn(5, 6), make_counters(5)
    three = torch.full((5,), 3)
    assert torch.equal(q_sample(x, 3, schedule, counters, 4), q_sample(x, three, schedule, counters, 4))
    reversed_ = reverse_step(x, x + 1, 3, -1, schedule, counters, 4)
    assert torch.equal(reversed_, reverse_step(x, x + 1, three, three - 4, schedule, counters, 4))


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
