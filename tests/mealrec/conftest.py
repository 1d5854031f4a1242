"""Fixtures of the model's tests."""

import pytest

from tests.mealrec.small import make_batch


@pytest.fixture
def batch():
    return make_batch()
