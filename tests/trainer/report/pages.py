"""Reads a page as its reader does: tables by caption, notes, and what it would load."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}
Row = list[list[str]]  # cells, each with its texts: the value, what is hidden, the second line


@dataclass
class Page(HTMLParser):
    """A page that has been read; a tag that is not closed where it should be is an error."""

    text: str
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    scripts: list[dict[str, str | None]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.rows: list[Row] = []
        self.caption = ""
        self.feed(self.text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]
        self.handlers += [name for name in attributes if name.startswith("on")]
        self.titles += [attributes["title"]] if attributes.get("title") else []
        if tag == "script":
            self.scripts.append(attributes)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"
        if tag == "table":
            assert self.caption not in self.tables, f"two tables of the caption {self.caption}"
            self.tables[self.caption] = self.rows

    def handle_data(self, data: str) -> None:
        if not (text := data.strip()):
            return
        if "caption" in self.open:
            self.caption += text
        elif self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1].append(text)
        elif "notes" in self.text and self.open[-1:] == ["li"]:
            self.notes.append(text)
        elif self.open[-1:] in (["h1"], ["h2"], ["h3"]):
            self.headings.append(text)

    def column(self, caption: str, head: str) -> dict[str, str]:
        """The values of a column by the head of their row."""
        rows = self.tables[caption]
        place = [" ".join(cell) for cell in rows[0]].index(head)
        return {row[0][0]: row[place][0] for row in rows[1:]}

    def interval(self, caption: str, head: str, row: str) -> tuple[float, float]:
        """The second line of a cell."""
        rows = self.tables[caption]
        place = [" ".join(cell) for cell in rows[0]].index(head)
        (cells,) = [each for each in rows[1:] if each[0][0] == row]
        low, high = cells[place][-1].split(" to ")
        return float(low), float(high)
