"""The direction of imports: tune -> trainer -> {mealrec, shards}, and who alone may use which library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = {
    "mealrec": set(),
    "shards": set(),
    "trainer": {"mealrec", "shards"},
    "tune": {"trainer"},
}
ALONE = {"webdataset": "shards", "deepspeed": "trainer", "ray.tune": "tune"}


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names of all that `source`, a file of `package`, imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = package if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def faults(room: str, files: dict[str, str]) -> list[str]:
    """What is wrong with the imports of a room's files (name -> source)."""
    forbidden = (set(ROOMS) - ROOMS[room] - {room}) | {
        library for library, owner in ALONE.items() if owner != room
    }
    forbidden |= {"tests", "bench"}
    return [
        f"{file} imports {name}"
        for file, source in files.items()
        for name in imported(source, room)
        if any(f"{name}.".startswith(f"{other}.") for other in forbidden)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_direction(room: str, root: Path) -> None:
    files = {str(path.relative_to(root)): path.read_text() for path in sorted((root / room).rglob("*.py"))}
    assert not faults(room, files)


def test_a_wrong_import_is_found_wherever_it_stands() -> None:
    inside = "def f():\n    import webdataset.writer as w\n"
    assert faults("trainer", {"a.py": inside}) == ["a.py imports webdataset.writer"]
    assert faults("shards", {"a.py": "from mealrec.model import MealRec"}) == [
        "a.py imports mealrec.model.MealRec"
    ]
    assert faults("mealrec", {"a.py": "import importlib\nimportlib.import_module('deepspeed')"})
    assert not faults("trainer", {"a.py": "from shards import Index\nfrom . import watch\nimport deepspeed"})


def test_help_needs_no_heavy_library() -> None:
    """The operator answers at once: no torch before there is something to train."""
    script = (
        "import sys; from trainer import options, operator, launcher, machine;"
        "options.build_parser().format_help();"
        "heavy = {'torch', 'deepspeed', 'webdataset', 'ray', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
