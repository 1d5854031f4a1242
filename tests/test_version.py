"""The version is kept in pyproject.toml; the one copy, in CITATION.cff, agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml


def test_citation_has_the_version_of_the_project(root: Path) -> None:
    project = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    citation = yaml.load((root / "CITATION.cff").read_text(), Loader=yaml.BaseLoader)
    assert project and citation["version"] == project[1]
