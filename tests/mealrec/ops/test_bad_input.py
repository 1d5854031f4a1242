"""Bad input is refused with a ValueError that says what is wrong, before any launch."""

import pytest
import torch

from mealrec.ops import (
    Counters,
    Sampler,
    Schedule,
    corrupt,
    diffusion_loss,
    dropout,
    normal,
    q_sample,
    reverse_step,
)

SCHEDULE = Schedule()


def make_counters(rows=3, device="cpu"):
    index = torch.arange(rows, device=device)
    return Counters(torch.tensor(1, device=device), torch.tensor(2, device=device), index, index)


def inputs(device):
    return torch.zeros(3, 4, device=device), torch.zeros(3, dtype=torch.int64, device=device)


def test_q_sample(kernel):
    name, device = kernel
    x, t = inputs(device)
    counters = make_counters(device=device)

    def refused(match, x=x, t=t, counters=counters, name=name, **options):
        with pytest.raises(ValueError, match=match):
            q_sample(x, t, SCHEDULE, counters, 1, kernel=name, **options)

    refused(r"step is torch.int32 \(3,\).*expected torch.int64 \[3\]", t=t.int())
    refused(r"step is torch.int64 \(2,\)", t=t[:2])
    refused(r"outside the schedule: 0 \.\. 10, expected 0 \.\. 9", t=torch.tensor([0, 10, 3], device=device))
    refused(r"outside the schedule: 10 \.\. 10, expected 0 \.\. 9", t=10)
    refused(r"outside the schedule: -1 \.\. 3", t=torch.tensor([0, -1, 3], device=device))
    refused("contiguous last dimension", x=torch.zeros(4, 3, device=device).T)
    refused(r"sample_id is torch.int64 \(4,\)", counters=make_counters(4, device))
    refused("mask is torch.float32", mask_R=torch.ones(3, device=device))
    refused(r"expected equal \[rows, width\]", x=torch.zeros(3, device=device))
    refused("kernel is 'fast', expected one of auto, cuda, cpu, reference", name="fast")


def test_rows_by_index(kernel):
    name, device = kernel
    x, t = inputs(device)
    row = torch.tensor([0, 2, 1, 0], device=device)
    counters = make_counters(4, device)

    def refused(match, row=row):
        with pytest.raises(ValueError, match=match):
            q_sample(x, 3, SCHEDULE, counters, 1, row_R=row, kernel=name)
        with pytest.raises(ValueError, match=match):
            corrupt(x, SCHEDULE, counters, 1, 2, row_R=row, kernel=name)
        with pytest.raises(ValueError, match=match):
            diffusion_loss(torch.zeros(4, 4, device=device), x, row_R=row, kernel=name)

    refused(r"row is torch.int32 \(4,\).*expected torch.int64", row=row.int())
    refused(r"row is torch.int64 \(4, 1\)", row=row[:, None])
    if device == "cpu":  # a GPU's host does not wait for them
        refused(r"row is 0 \.\. 3, expected 0 \.\. 2", row=row * 3 % 4)
        refused(r"row is -1 \.\. 1, expected 0 \.\. 2", row=row - 1)
    with pytest.raises(ValueError, match=r"sample_id is torch.int64 \(3,\).*expected torch.int64 \[4\]"):
        q_sample(x, 3, SCHEDULE, make_counters(3, device), 1, row_R=row, kernel=name)
    with pytest.raises(ValueError, match=r"row is torch.int64 \(4,\).*expected torch.int64 \[3\]"):
        diffusion_loss(x, x, row_R=row, kernel=name)
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(3, 2\)"):
        diffusion_loss(x, x[:, :2], row_R=row[:3], kernel=name)


def test_pairs_of_rows(kernel):
    name, device = kernel
    x, t = inputs(device)
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(3, 2\), expected equal"):
        reverse_step(x, x[:, :2], t, t - 1, SCHEDULE, make_counters(device=device), 1, kernel=name)
    with pytest.raises(ValueError, match="expected the same"):
        reverse_step(x, x.bfloat16(), t, t - 1, SCHEDULE, make_counters(device=device), 1, kernel=name)
    with pytest.raises(ValueError, match="expected ddim or ddpm"):
        Sampler("euler")
    with pytest.raises(ValueError, match="t_prev of a step is outside"):
        reverse_step(x, x, t, t - 2, SCHEDULE, make_counters(device=device), 1, kernel=name)
    with pytest.raises(ValueError, match="p is 1.5, expected 0 <= p < 1"):
        dropout(x, 1.5, make_counters(device=device), 64, kernel=name)


def test_cpu_tensors_for_the_cuda_kernel():
    x, t = inputs("cpu")
    with pytest.raises(ValueError, match="kernel is 'cuda' and the tensors are on 'cpu'"):
        q_sample(x, t, SCHEDULE, make_counters(), 1, kernel="cuda")


def test_a_dtype_that_the_kernels_do_not_store(fused):
    x, t = inputs(fused)
    counters = make_counters(device=fused)
    with pytest.raises(ValueError, match="takes float32 and bfloat16, found torch.float64"):
        q_sample(x.double(), t, SCHEDULE, counters, 1, kernel=fused)
    assert q_sample(x.double(), t, SCHEDULE, counters, 1).dtype == torch.float64  # auto: the reference


@pytest.mark.parametrize("field", ["sample_id", "row"])
@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_fields_beyond_32_bits(field, value):
    fields = {
        "seed": torch.tensor(0),
        "step": torch.tensor(0),
        "sample_id": torch.zeros(2).long(),
        "row": torch.zeros(2).long(),
    }
    fields[field] = torch.tensor([0, value])
    with pytest.raises(ValueError, match=rf"{field} of a random number is outside \[0, 2\^32\)"):
        normal(Counters(**fields), 4, 1)
