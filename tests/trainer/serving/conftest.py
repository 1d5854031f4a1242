"""What the tests of this folder share: an export of a model that was not trained, opened once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.serving.exports import write_export
from trainer.serving import Recommender


@pytest.fixture(scope="package")
def small_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("exports") / "small")


@pytest.fixture(scope="package")
def small(small_export: Path) -> Recommender:
    return Recommender.load(small_export)
