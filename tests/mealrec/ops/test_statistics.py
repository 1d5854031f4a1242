"""10^8 normals of the fastest implementation here, against the normal distribution."""

import math

import pytest
import torch

from mealrec.ops import Counters, normal

ROWS, COLUMNS, SAMPLES = 1 << 14, 64, 96  # 10^8 draws in slices of 10^6


@pytest.mark.slow
def test_a_hundred_million_normals(fused):
    torch.set_num_threads(1)
    count = ROWS * COLUMNS * SAMPLES
    power = torch.zeros(4, dtype=torch.float64)
    lag = torch.zeros(3, dtype=torch.float64)
    edges = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    histogram, tails = torch.zeros(1202), 0
    row = torch.arange(ROWS, device=fused)
    before = None
    for sample in range(SAMPLES):
        seed, step = torch.tensor(123, device=fused), torch.tensor(sample % 7, device=fused)
        z = normal(Counters(seed, step, torch.full_like(row, sample), row), COLUMNS, 9, kernel=fused)
        z = z.cpu().double()
        power += torch.stack([(z**k).sum() for k in (1, 2, 3, 4)])
        lag[0] += (z[:, 1:] * z[:, :-1]).sum()  # neighbours in a row
        lag[1] += (z[1:] * z[:-1]).sum()  # neighbours in a column
        if before is not None:
            lag[2] += (z * before).sum()  # the same element of the sample before
        before = z
        histogram += torch.bincount(torch.bucketize(z.flatten(), edges), minlength=1202).float()
        tails += int((z.abs() > 4.5).sum())
    for k, (expected, deviation) in enumerate(((0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5))):
        assert float(power[k] / count) == pytest.approx(expected, abs=5 * deviation / math.sqrt(count)), k + 1
    for correlation in lag / count:
        assert abs(float(correlation)) < 5 / math.sqrt(count)
    # Kolmogorov-Smirnov on a fine grid; 1.95 / sqrt(n) is exceeded once in 1,000.
    empirical = torch.cumsum(histogram.double(), 0)[:-1] / count
    distance = (empirical - torch.special.ndtr(edges)).abs().max()
    assert float(distance) < 1.95 / math.sqrt(count)
    expected = count * math.erfc(4.5 / math.sqrt(2))
    assert abs(tails - expected) < 5 * math.sqrt(expected) and expected > 600
