"""The terms of the softmax against float64, and what must hold whatever the values."""

import math

import pytest
import torch

from mealrec.ops import softmax_terms_

# Whole and partial groups of rows, blocks of rows, vectors and tiles of columns.
SHAPES = [(1, 1), (3, 5), (5, 33), (127, 16), (129, 70), (300, 64), (40, 600), (2, 5000)]


def inputs(shape, device="cpu"):
    """Logits, scores, own rows (every third column has none) and a bias that is -inf in the last row."""
    rows, columns = shape
    logits, score = 5 * torch.randn(shape, device=device), 5 * torch.randn(columns, device=device)
    own = torch.randint(rows, (columns,), device=device)
    own[::3] = -1
    bias = torch.randn(rows, device=device)
    bias[-1] = float("-inf")
    return logits, score, own, bias


def truth(logits, score, own, bias):
    """Terms, highest and sums, float64."""
    terms = logits.double() if bias is None else logits.double() + bias.double()[:, None]
    own_column = torch.nonzero(own >= 0)[:, 0]
    terms[own[own_column], own_column] = float("-inf")
    highest = torch.maximum(terms.amax(0), score.double())
    terms = (terms - highest).exp()
    return terms, highest, terms.sum(0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_against_float64(kernel, shape, biased):
    name, device = kernel
    logits, score, own, bias = inputs(shape, device)
    bias = bias if biased else None
    expected = truth(logits, score, own, bias)
    highest, rest = softmax_terms_(logits, score, own, bias, kernel=name)
    # Of a difference of numbers to 40, the last digit of float32 is 4e-6.
    for result, exact in zip((logits, highest, rest), expected, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-30)
    left_out = torch.nonzero(own >= 0)[:, 0]
    assert not logits[own[left_out], left_out].any()
    assert not biased or not logits[-1].any()


def test_an_exponential_is_within_2e_7(fused):
    x = torch.linspace(-87, 0, 1 << 20).view(-1, 16).to(fused)
    terms, none = x.clone(), torch.full((16,), -1, device=fused)
    highest, _ = softmax_terms_(terms, torch.zeros(16, device=fused), none, kernel=fused)
    assert not highest.any()
    error = (terms.double() / x.double().exp() - 1).abs().max()
    assert error <= 2e-7


@pytest.mark.parametrize("columns", [1, 21, 64])
def test_the_ends_of_the_range(kernel, columns):
    name, device = kernel
    ends = torch.tensor([0.0, -104.0, -1e30, float("-inf")], device=device)
    logits, zero = ends[:, None].repeat(1, columns), torch.zeros(columns, device=device)
    none = torch.full((columns,), -1, device=device)
    highest, rest = softmax_terms_(logits, zero, none, kernel=name)
    assert logits.T.tolist() == [[1, 0, 0, 0]] * columns and rest.tolist() == [1] * columns
    # The score of a target that does not count is beyond all logits.
    highest, rest = softmax_terms_(ends[:, None].repeat(1, columns), zero + 1e30, none, kernel=name)
    assert rest.tolist() == [0] * columns and torch.equal(highest, zero + 1e30)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_its_sum_alone(kernel, broken):
    name, device = kernel
    logits, score, own, _ = inputs((200, 37), device)
    logits[150, 20] = broken
    own[20] = -1
    _, rest = softmax_terms_(logits, score, own, kernel=name)
    assert torch.nonzero(rest.isnan())[:, 0].tolist() == [20]


def test_sums_of_many_rows_keep_their_digits(fused):
    rows = 300_000
    logits = torch.full((rows, 3), math.log(0.1), device=fused)
    zero, none = torch.zeros(3, device=fused), torch.full((3,), -1, device=fused)
    _, rest = softmax_terms_(logits, zero, none, kernel=fused)
    torch.testing.assert_close(rest.cpu(), torch.full((3,), 0.1 * rows), rtol=2e-6, atol=0)


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_bits_do_not_depend_on_the_number_of_threads(fused):
    logits, score, own, bias = inputs((3000, 300))
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            terms = logits.clone()
            results.append((terms, *softmax_terms_(terms, score, own, bias, kernel=fused)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_no_columns(kernel):
    name, device = kernel
    none = torch.zeros(0, device=device)
    highest, rest = softmax_terms_(torch.zeros(4, 0, device=device), none, none.long(), kernel=name)
    assert highest.shape == rest.shape == (0,)


def test_fields_may_have_strides(fused):
    logits, score, own, bias = inputs((30, 20), fused)
    expected = softmax_terms_(logits.clone(), score, own, bias, kernel=fused)
    apart = [torch.stack([field, field], 1)[:, 0] for field in (score, own, bias)]
    for one, other in zip(expected, softmax_terms_(logits, *apart, kernel=fused), strict=True):
        assert torch.equal(one, other)


def test_bad_input(kernel):
    name, device = kernel
    logits, score, own, bias = inputs((4, 3), device)

    def refused(match, logits=logits, score=score, own=own, bias=bias):
        with pytest.raises(ValueError, match=match):
            softmax_terms_(logits, score, own, bias, kernel=name)

    refused(r"logits are torch.float64 \(4, 3\), expected torch.float32 \[rows, columns\]", logits.double())
    refused(r"logits are torch.float32 \(0, 3\).*with a row", logits[:0])
    refused(r"logits are torch.float32 \(3,\)", logits[0])
    refused(r"strides \(1, 4\), expected contiguous rows", logits.view(3, 4).T)
    refused(r"score is torch.float32 \(2,\) on .*, expected torch.float32 \[3\]", score=score[:2])
    refused(r"own is torch.int32 \(3,\) on .*, expected torch.int64 \[3\]", own=own.int())
    refused(r"bias is torch.float32 \(3,\) on .*, expected torch.float32 \[4\]", bias=bias[:3])
    if device == "cpu":  # a GPU's host does not wait for it
        refused("own is up to 4, expected below 4", own=own + 4 - own.max())


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_operator_contract(fused):
    """Schema and fake part agree with what the operator does."""
    logits, score, own, bias = inputs((6, 5))
    for each in (None, bias):
        torch.library.opcheck(torch.ops.mealrec.softmax_terms_, (logits.clone(), score, own, each))
