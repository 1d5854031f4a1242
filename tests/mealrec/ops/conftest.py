"""Fixtures for every implementation of the operations, each on its device."""

import pytest
import torch

from mealrec.ops import Unavailable, build
from mealrec.ops.choice import load


def _missing(kind):
    try:
        load(kind)
    except Unavailable as reason:
        return str(reason)
    return None


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def fused(request):
    """A fused kernel that is available here; it is the name of its device too."""
    reason = _missing(request.param)
    if reason is not None:
        pytest.skip(f"the fused {request.param} kernels are not available: {reason}")
    return request.param


@pytest.fixture(scope="session", params=["reference", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel(request):
    """Any implementation: (name, device)."""
    if request.param == "reference":
        return "reference", "cpu"
    reason = _missing(request.param)
    if reason is not None:
        pytest.skip(f"the fused {request.param} kernels are not available: {reason}")
    return request.param, request.param


@pytest.fixture(scope="session")
def nvcc():
    try:
        return build.compilers("cuda")["nvcc"]
    except Unavailable as reason:
        pytest.skip(f"CUDA sources cannot be compiled: {reason}")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
