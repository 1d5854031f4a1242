"""The generator against published known answers, an independent implementation and moments."""

import math

import pytest
import torch

from mealrec.ops import Counters, Schedule, bernoulli, corrupt, normal, words
from mealrec.ops.philox import philox4x32

# Random123's known-answer vectors for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def philox_python(counter, key):
    """Salmon et al. 2011, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return c


def make_counters(rows=5, seed=7, step=3):
    return Counters(
        torch.tensor(seed),
        torch.tensor(step),
        torch.arange(rows) * 1_000_003,
        torch.arange(rows) * 17 + 2**31,
    )


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    def parse(text):
        return [int(word, 16) for word in text.split()]

    result = philox4x32(*map(torch.tensor, parse(counter)), *map(torch.tensor, parse(key)))
    assert [int(word) for word in result] == parse(expected) == philox_python(parse(counter), parse(key))


@pytest.mark.parametrize("columns", [1, 4, 7])
def test_counter_layout(columns):
    counters, stream = make_counters(), 5
    drawn = words(counters, columns, stream)
    for r in range(5):
        for column in range(columns):
            counter = (column // 4, int(counters.row[r]), int(counters.sample_id[r]), 3)
            assert int(drawn[r, column]) == philox_python(counter, (7, stream))[column % 4]


def test_normals_are_box_muller_of_the_words():
    counters, stream = make_counters(rows=64), 9
    drawn, word = normal(counters, 8, stream), words(counters, 8, stream)
    for r in range(64):
        for pair in range(0, 8, 2):
            radius = math.sqrt(-2 * math.log((int(word[r, pair]) + 0.5) * 2.0**-32))
            angle = 2 * math.pi * int(word[r, pair + 1]) * 2.0**-32
            assert float(drawn[r, pair]) == pytest.approx(radius * math.cos(angle), rel=1e-6, abs=1e-7)
            assert float(drawn[r, pair + 1]) == pytest.approx(radius * math.sin(angle), rel=1e-6, abs=1e-7)


def test_rows_do_not_depend_on_the_other_rows():
    counters = make_counters(rows=6)
    alone = Counters(counters.seed, counters.step, counters.sample_id[4:5], counters.row[4:5])
    assert torch.equal(normal(counters, 10, 1)[4:5], normal(alone, 10, 1))
    assert torch.equal(normal(counters, 10, 1)[:, :6], normal(counters, 6, 1))


def test_every_coordinate_matters():
    base = normal(make_counters(), 4, 1)
    assert not torch.equal(base, normal(make_counters(seed=8), 4, 1))
    assert not torch.equal(base, normal(make_counters(step=4), 4, 1))
    assert not torch.equal(base, normal(make_counters(), 4, 2))
    assert len(torch.unique(base)) == base.numel()


def test_moments():
    counters = Counters(
        torch.tensor(1), torch.tensor(0), torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64)
    )
    z = normal(counters, 50, 3).double().flatten()
    for power, expected, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert float((z**power).mean()) == pytest.approx(expected, abs=5 * deviation / 1e3)
    assert float(bernoulli(counters, 0.1, 4).double().mean()) == pytest.approx(0.1, abs=0.011)
    _, steps = corrupt(torch.zeros(20_000, 1), Schedule("linear", 10), counters, 6, 5)
    assert (
        steps.dtype == torch.int64
        and (torch.bincount(steps, minlength=10) / 20_000 - 0.1).abs().max() < 0.011
    )
