"""Which part may import which, who alone may use which library, and that no imports run in a circle."""

from __future__ import annotations

import ast
import graphlib
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
# Inside trainer: what lies flat is shared; each process may import that, and three also evaluate.
PROCESSES = {
    "launch": set(),
    "evaluation": set(),
    "rank": {"evaluation"},
    "serving": {"evaluation"},
    "report": {"evaluation"},
}
ALONE = {"webdataset": "shards", "deepspeed": "trainer", "ray.tune": "tune"}
# A callback names the loop that calls it, as a type alone.
MAY_CIRCLE = {("trainer.rank.loop", "trainer.rank.callbacks.base")}


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


def starts_with(name: str, prefixes: set[str]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


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
        if starts_with(name, forbidden)
    ]


def process_faults(files: dict[str, str]) -> list[str]:
    """What is wrong between the folders of `trainer` (dotted module -> source)."""
    wrong = []
    for module, source in files.items():
        own = f"{module}.".split(".")[1]  # the process that a module or package belongs to
        allowed = {own} | PROCESSES.get(own, set())
        forbidden = {f"trainer.{process}" for process in set(PROCESSES) - allowed}
        if module == "trainer.__main__":
            continue  # the entry of all three
        names = imported(source, module)
        wrong += [f"{module} imports {name}" for name in names if starts_with(name, forbidden)]
    return wrong


def modules(root: Path, room: str) -> dict[str, str]:
    """Dotted module name -> source of a room's files; a package goes by its own name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in sorted((root / room).rglob("*.py"))
    }


def graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules of `files` that it imports, lazily or for types alone, too."""
    edges: dict[str, set[str]] = {}
    for module, source in files.items():
        targets = set()
        for name in imported(source, module):
            # `from a.b import c` imports the module a.b.c where there is one, else a.b for its name c
            target = next((n for n in (name, name.rpartition(".")[0]) if n in files), None)
            if target and target != module and (target, module) not in MAY_CIRCLE:
                targets.add(target)
        edges[module] = targets
    return edges


@pytest.mark.parametrize("room", ROOMS)
def test_direction(room: str, root: Path) -> None:
    assert not faults(room, modules(root, room))


def test_direction_of_processes(root: Path) -> None:
    assert not process_faults(modules(root, "trainer"))


def test_no_circles(root: Path) -> None:
    files = {module: source for room in ROOMS for module, source in modules(root, room).items()}
    try:
        graphlib.TopologicalSorter(graph(files)).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_wrong_import_is_found_wherever_it_stands() -> None:
    inside = "def f():\n    import webdataset.writer as w\n"
    assert faults("trainer", {"a.py": inside}) == ["a.py imports webdataset.writer"]
    assert faults("shards", {"a.py": "from mealrec.model import MealRec"}) == [
        "a.py imports mealrec.model.MealRec"
    ]
    assert faults("mealrec", {"a.py": "import importlib\nimportlib.import_module('deepspeed')"})
    assert not faults("trainer", {"a.py": "from shards import Index\nfrom . import watch\nimport deepspeed"})


def test_a_wrong_process_is_found() -> None:
    assert process_faults({"trainer.inputs": "from trainer.rank.step import TrainStep"})
    assert process_faults({"trainer.launch.a": "def f():\n    from trainer.rank import main"})
    assert process_faults({"trainer.evaluation.a": "import trainer.launch.machine"})
    allowed = "from trainer.evaluation import weights\nfrom trainer import files"
    assert not process_faults({"trainer.rank.a": allowed})


def test_a_circle_is_found() -> None:
    files = {"a": "import b", "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import A"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph(files)).prepare()


def test_help_needs_no_heavy_library() -> None:
    """The operator answers at once: no torch before there is something to train."""
    script = (
        "import sys; from trainer import options; from trainer.launch import operator, deepspeed, machine;"
        "options.build_parser().format_help();"
        "heavy = {'torch', 'deepspeed', 'webdataset', 'ray', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
