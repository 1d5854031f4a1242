"""One form of results: a table on the screen, and a CSV that says on what and by which command it was made.

The CSV begins with three lines of comment: `# device:`, `# versions:` and `# command:`. Rows are written as
they are measured, so what is there stays if a later one fails.
"""

from __future__ import annotations

import csv
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "deepspeed", "numpy", "webdataset")


class Report:
    """A table that grows row by row, on the screen and in `path`."""

    def __init__(self, path: Path, device: str | None = None, versions: Mapping[str, str] | None = None):
        """Start the file.

        Args:
            device: what the figures belong to; default: this CPU, one thread.
            versions: of peers, by name, beside those of `PACKAGES`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows, self._widths = path, list[dict[str, Any]](), list[int]()
        self._file = open(path, "w", newline="")  # noqa: SIM115 - grows until `close`
        known = {"Python": platform.python_version(), **installed(), **(versions or {})}
        facts = {
            "device": device
            or f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, one thread, core-seconds",
            "versions": ", ".join(f"{name} {version}" for name, version in known.items()),
            "command": command(),
        }
        for name, fact in facts.items():
            print(f"# {name}: {fact}", file=self._file)
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, **cells: object) -> None:
        """Write a row, the first with its head; numbers have three digits, or are whole."""
        row = {name: _short(value) for name, value in cells.items()}
        if not self.rows:
            self._writer.writerow(row)
            self._widths = [max(9, len(name), 2 + len(str(value))) for name, value in row.items()]
            self._widths[0] = max(30, self._widths[0])
            print(self._line(row))
        self._writer.writerow(row.values())
        self._file.flush()
        self.rows.append(row)
        print(self._line(row.values()), flush=True)

    def close(self, *lines: str) -> None:
        """Print the last lines, such as goals, and where the CSV is."""
        self._file.close()
        print("", *lines, f"written: {self.path}", sep="\n")

    def _line(self, cells: Any) -> str:
        texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
        first, *others = (
            f"{text:<{width}}" if place == 0 else f"{text:>{width}}"
            for place, (text, width) in enumerate(zip(texts, self._widths, strict=True))
        )
        return " ".join([first, *others]).rstrip()


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV of ours."""
    with open(path, newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def goal(what: str, value: float | None, *, least: float | None = None, most: float | None = None) -> str:
    """A line that says whether a figure reaches its goal: `least` or `most`."""
    sign, limit = (">=", least) if least is not None else ("<=", most)
    if value is None:
        return f"not measured  {what} (goal {sign} {limit})"
    reached = value >= least if least is not None else most is not None and value <= most
    return f"{'reached' if reached else 'MISSED':<12}  {what}: {_short(value)} (goal {sign} {limit})"


def command() -> str:
    """The command line of this process, as a reader would type it."""
    name = re.sub(r"\W+", ".", str(Path(sys.argv[0]).with_suffix("").relative_to(Path(__file__).parents[1])))
    return " ".join(["python -m", name.removesuffix(".__main__"), *sys.argv[1:]])


def processor() -> str:
    """The name of the CPU."""
    return next(_cpuinfo("model name"), platform.processor())


def installed() -> dict[str, str]:
    """Versions of `PACKAGES`, those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpuinfo(field: str) -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()


def _short(value: object) -> object:
    """A float with three digits, or whole where it is large."""
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 1000 else float(f"{value:.3g}") if abs(value) >= 1e-4 else value
