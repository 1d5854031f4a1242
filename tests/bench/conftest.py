"""A test that is a rank."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trainer import distributed

RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process may become a rank, for this test alone: commands of later tests are operators."""
    for name, value in RANK.items():
        monkeypatch.setenv(name, value)
    yield
    distributed.shutdown()
