"""Counted comparisons against NumPy."""

import numpy as np
import pytest
import torch

from mealrec.ops import count_above, reference

# Whole and partial groups of rows, blocks of rows, vectors and tiles of columns.
SHAPES = [(1, 1), (3, 5), (5, 33), (127, 16), (129, 70), (300, 64), (40, 600), (2, 5000)]


def counted(score, own):
    score, own = score.cpu().numpy(), own.cpu().numpy()
    return np.count_nonzero(score > own, axis=0), np.count_nonzero(score == own, axis=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("elements", [1, 1 << 18])
def test_against_numpy(kernel, shape, elements, monkeypatch):
    name, device = kernel
    monkeypatch.setitem(reference.COUNT_ELEMENTS, device, elements)
    # Few different values, so that many are equal; beyond all of them what masks and overflows leave.
    score = torch.randint(-3, 4, shape, device=device).float()
    score[torch.rand(shape, device=device) < 0.1] = float("-inf")
    score[torch.rand(shape, device=device) < 0.05] = float("nan")
    own = torch.randint(-3, 4, shape[1:], device=device).float()
    own[1::7], own[2::7] = float("-inf"), float("nan")
    results = count_above(score, own, kernel=name)
    for result, expected in zip(results, counted(score, own), strict=True):
        assert result.dtype == torch.int64
        np.testing.assert_array_equal(result.cpu().numpy(), expected)


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_threads_share_the_rows(fused):
    score, own, threads = torch.randn(3000, 300), torch.randn(300), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        results = count_above(score, own, kernel=fused)
    finally:
        torch.set_num_threads(threads)
    for result, expected in zip(results, counted(score, own), strict=True):
        np.testing.assert_array_equal(result.numpy(), expected)


def test_no_columns(kernel):
    name, device = kernel
    none = torch.zeros(0, device=device)
    for count in count_above(torch.zeros(4, 0, device=device), none, kernel=name):
        assert count.shape == (0,)


def test_bad_input(kernel):
    name, device = kernel
    score, own = torch.zeros(4, 3, device=device), torch.zeros(3, device=device)

    def refused(match, score=score, own=own):
        with pytest.raises(ValueError, match=match):
            count_above(score, own, kernel=name)

    refused(r"scores are torch.float64 \(4, 3\), expected torch.float32 \[rows, columns\]", score.double())
    refused(r"scores are torch.float32 \(0, 3\).*with a row", score[:0])
    refused(r"scores have strides \(1, 4\), expected contiguous rows", score.view(3, 4).T)
    refused(r"own is torch.float32 \(2,\) on .*, expected torch.float32 \[3\]", own=own[:2])
    refused(r"own is torch.int64 \(3,\)", own=own.long())


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_operator_contract(fused):
    """Schema and fake part agree with what the operator does."""
    torch.library.opcheck(torch.ops.mealrec.count_above, (torch.randn(6, 5), torch.randn(5)))
