"""Scores of bfloat16 factors are float32, on a GPU without having been rounded."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mealrec.product import product


class Recorder(TorchDispatchMode):
    """Which operators are called."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.called.append(operator)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu(dtype):
    a, b = torch.randn(5, 7).to(dtype), torch.randn(9, 7).to(dtype)
    scores = product(a, b.T)
    assert scores.dtype == torch.float32 and torch.equal(scores, (a @ b.T).float())


@pytest.mark.parametrize(
    ("dtype", "operator"),
    [(torch.bfloat16, torch.ops.aten.mm.dtype), (torch.float32, torch.ops.aten.mm.default)],
)
def test_a_gpu_gives_out_its_sums(dtype, operator):
    with FakeTensorMode():
        a, b = torch.empty(5, 7, dtype=dtype, device="cuda"), torch.empty(9, 7, dtype=dtype, device="cuda")
        with Recorder() as recorder:
            scores = product(a, b.T)
    assert scores.dtype == torch.float32 and scores.shape == (5, 9)
    assert operator in recorder.called and not any("_to_copy" in str(each) for each in recorder.called)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sums_on_a_gpu_are_not_rounded():
    a, b = (torch.randn(size, 64, device="cuda").bfloat16() for size in (300, 500))
    torch.testing.assert_close(product(a, b.T), a.float() @ b.float().T, rtol=1e-5, atol=1e-4)
