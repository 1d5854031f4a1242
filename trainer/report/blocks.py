"""What a page is made of: sections of notes, tables, charts and frames. All text in them is plain text."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.report.statistics import Estimate

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a second line, and the number by which its column is sorted, if any."""

    text: str
    detail: str = ""
    order: float | None = None
    mark: str = ""  # "better" or "worse"


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its head.

    runs: by column, the number of the run that it is about. sortable: a column's cells are of one kind.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    runs: Mapping[int, int] = field(default_factory=dict)
    sortable: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure of plotly.js: traces whose `meta.run` is the number of their run, and a layout.

    description: for those who cannot see it.
    """

    title: str
    description: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A frame's weight by one run: the length of its bar, 0 to 1, its text, and what is said on hover."""

    run: int
    length: float
    text: str
    detail: str


@dataclass(frozen=True)
class FrameStrip:
    """The frames of a video in order: for each its picture, an address or empty, and its bars."""

    title: str
    detail: str
    frames: Sequence[tuple[str, Sequence[Bar]]]


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own. key: whether it shows runs by colour."""

    id: str
    title: str
    lead: str = ""
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    strips: Sequence[FrameStrip] = ()
    key: bool = False

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show or to say."""
        return bool(self.notes or self.tables or self.charts or self.strips)


def number(value: float | None, digits: int = 4) -> Cell:
    """Return a cell of a number, or of none."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    return Cell(f"{value:.{digits}f}", order=value)


def share(value: float | None) -> Cell:
    """Return a cell of a share of 0 to 1 in per cent."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    return Cell(f"{100 * value:.1f} %", order=value)


def estimate(value: Estimate, digits: int = 4) -> Cell:
    """Return a cell of a mean with its interval in the second line."""
    if not math.isfinite(value.mean):
        return Cell(MISSING)
    # Where all resamples agree, as in a group where nobody has a hit, the bootstrap knows no interval.
    detail = f"{value.low:.{digits}f} to {value.high:.{digits}f}" if value.low < value.high else ""
    return Cell(f"{value.mean:.{digits}f}", detail, value.mean)


def difference(value: Estimate) -> Cell:
    """Return a cell of a difference: better or worse where the interval leaves out zero."""
    if not math.isfinite(value.mean):
        return Cell(MISSING)
    mark = ("better" if value.mean > 0 else "worse") if value.is_not_zero else ""
    return Cell(f"{value.mean:+.4f}", f"{value.low:+.4f} to {value.high:+.4f}", value.mean, mark)


def label(text: str) -> str:
    """Return plain text as plotly.js shows it: it reads some HTML in what it draws."""
    return html.escape(text, quote=False)
