"""The sections of the page, one file each: a function from the runs to what is shown."""

from __future__ import annotations

from trainer.report.blocks import Section
from trainer.report.comparison import Comparison
from trainer.report.sections import (
    accuracy,
    catalogue,
    cost,
    frames,
    groups,
    learning,
    preference,
    runs,
    skill,
)

ORDER = (runs, accuracy, groups, learning, catalogue, preference, skill, frames, cost)


def sections(comparison: Comparison) -> list[Section]:
    """Return the sections that have something to show, in the order of the page."""
    made = [module.section(comparison) for module in ORDER]
    return [section for section in made if section.has_content]
