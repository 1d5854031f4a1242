"""A run with the fused kernels is the run with the reference."""

import numpy as np
import pytest

from mealrec.ops import Unavailable, build
from tests.trainer import runs


def test_the_loss_curve_does_not_depend_on_the_kernel(make_data, tmp_path_factory):
    try:
        build.compilers("cpu")
    except Unavailable as reason:
        pytest.skip(f"the fused kernels cannot be built: {reason}")
    folder = tmp_path_factory.mktemp("kernels")
    kernels = ("reference", "cpu")
    commands = [
        runs.arguments(folder / kernel, make_data(), model__kernel=kernel, train__max_epochs=8)
        for kernel in kernels
    ]
    assert runs.train_several(1, commands, folder / "cache") == [None, None]
    reference, fused = (np.array(runs.losses(folder / kernel)) for kernel in kernels)
    assert len(reference) >= 8
    np.testing.assert_allclose(fused[:, :5], reference[:, :5], rtol=1e-4)
    np.testing.assert_allclose(fused[:3, :5], reference[:3, :5], rtol=2e-6)


def test_a_kernel_that_cannot_be_had_is_one_line(make_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("no kernels")
    (reported,) = runs.train_several(
        1, [runs.arguments(folder / "run", make_data(), model__kernel="cuda")], folder / "cache"
    )
    assert reported is not None and "kernel" in reported and "cuda" in reported
