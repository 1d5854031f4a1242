"""The one-pass losses against PyTorch's cross entropy, and the sampler against its distribution."""

import math

import pytest
import torch
import torch.nn.functional as F

from mealrec import objective
from mealrec.config import ObjectiveConfig
from mealrec.objective import NegativeSampler, full_softmax, sampled_softmax


def leaf(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_full_softmax(chunk, kernel, monkeypatch):
    monkeypatch.setitem(objective.CHUNK_ELEMENTS, "cpu", chunk)
    u, E, target = leaf(150, 8), leaf(24, 8), torch.arange(150) % 23 + 1
    for bias in (None, leaf(24)):
        inputs = (u, E) if bias is None else (u, E, bias)
        loss = full_softmax(u, E[target], target, E, bias, kernel)
        gradients = torch.autograd.grad(loss * 0.25, inputs)
        scores = u @ E[1:].T if bias is None else u @ E[1:].T + bias[1:]
        expected = F.cross_entropy(scores, target - 1, reduction="sum")
        torch.testing.assert_close(loss, expected)
        expected_gradients = torch.autograd.grad(expected * 0.25, inputs)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_full_softmax_in_bfloat16_is_near_float32():
    u, E, target = leaf(40, 16), leaf(31, 16), torch.arange(40) % 30 + 1
    low = [x.detach().bfloat16().requires_grad_() for x in (u, E)]
    loss, expected = (full_softmax(u, E[target], target, E) for u, E in (low, (u, E)))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    for half, full in zip(torch.autograd.grad(loss, low), torch.autograd.grad(expected, (u, E)), strict=True):
        torch.testing.assert_close(half.float(), full, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_sampled_softmax(power, kernel):
    counts = torch.tensor([0, 5, 1, 0, 9, 3, 7, 2])
    sampler = NegativeSampler(counts, ObjectiveConfig(negatives=6, negative_power=power))
    u, E, bias, target = leaf(20, 4), leaf(8, 4), leaf(8), torch.arange(20) % 7 + 1
    negative = sampler.draw(torch.tensor(3), torch.tensor(9))
    loss = sampled_softmax(u, E[target], target, E[negative], negative, sampler, bias, kernel)
    log_q = sampler.log_probability(torch.arange(1, 8)) + math.log(6)
    corrected = u @ E[1:].T + bias[1:] - log_q
    logits = torch.cat([corrected.gather(1, target[:, None] - 1), corrected[:, negative - 1]], dim=1)
    hit = torch.cat([torch.zeros(20, 1, dtype=torch.bool), negative == target[:, None]], dim=1)
    expected = F.cross_entropy(
        logits.masked_fill(hit, float("-inf")), torch.zeros(20).long(), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    gradients, expected_gradients = (torch.autograd.grad(x, (u, E, bias)) for x in (loss, expected))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_negatives_follow_the_training_counts():
    counts = torch.tensor([0, 50, 10, 0, 90, 30])
    sampler = NegativeSampler(counts, ObjectiveConfig(negatives=200_000))
    drawn = sampler.draw(torch.tensor(1), torch.tensor(0))
    share = torch.bincount(drawn, minlength=6)[1:] / len(drawn)
    expected = counts[1:] / counts.sum()
    torch.testing.assert_close(share, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(
        sampler.log_probability(torch.tensor([1, 4])).exp(), expected[[0, 3]], atol=1e-6, rtol=0
    )
    assert float(sampler.log_probability(torch.arange(1, 6)).double().exp().sum()) == pytest.approx(1)
    assert torch.equal(drawn, sampler.draw(torch.tensor(1), torch.tensor(0)))
    assert not torch.equal(drawn, sampler.draw(torch.tensor(1), torch.tensor(1)))
