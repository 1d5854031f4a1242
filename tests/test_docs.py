"""The documents agree with the checkout: the paths that they name exist, and the example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md")
PATHS = re.compile(r"`((?:mealrec|shards|trainer|tune|bench|tests|docs)/[\w./-]*)`")


@pytest.fixture
def documents(root: Path) -> list[Path]:
    return [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]


def test_paths_exist(root: Path, documents: list[Path]) -> None:
    named = {(path.name, match[1]) for path in documents for match in PATHS.finditer(path.read_text())}
    assert len(named) > 20
    assert not {(document, path) for document, path in named if not (root / path).exists()}


def test_the_example_for_notebooks_runs(root: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "model.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["scores"].shape == names["videos"].shape == (64, 10)
