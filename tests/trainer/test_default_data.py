"""The data set that a run makes for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.default_data import make_default_data


def test_the_default_data_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def count(path: Path) -> None:
        made.append(path)
        path.mkdir(parents=True)

    monkeypatch.setattr("shards.synthesise", count)
    for _ in range(2):
        make_default_data(tmp_path / "data" / "default")
    assert len(made) == 1
