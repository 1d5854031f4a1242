"""What `shards` offers, and what reading an index does not import."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import shards

HEAVY = {"torch", "webdataset", "numpy", "pyarrow", "duckdb", "fsspec"}


@pytest.mark.parametrize("name", shards.__all__)
def test_every_export_is_there(name):
    assert getattr(shards, name) is not None


def test_type_checkers_see_the_same_exports():
    tree = ast.parse(Path(shards.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    modules = {alias.name: node.module for node in imports for alias in node.names}
    exported = {name: f"shards.{module}" for name, module in shards._MODULES.items()}
    assert {name: module for name, module in modules.items() if module.startswith("shards.")} == exported


def test_an_index_is_read_without_heavy_libraries(make_data_set):
    index, _ = make_data_set()
    code = (
        "import sys; from shards import DataError, Index; Index.load(sys.argv[1])\n"
        f"heavy = {HEAVY} & set(sys.modules); sys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, index.path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_no_import_cycles():
    """No module imports itself by way of others, counting imports inside functions and for type checkers."""
    root = Path(shards.__file__).parent
    edges = {}
    for path in root.rglob("*.py"):
        parts = ("shards", *path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        edges[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: a relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    is_module = node.module.startswith("shards") and _is_module(inner)
                    edges[name].add(inner if is_module else node.module)
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names}
    done = set()

    def visit(module, chain):
        assert module not in chain, " -> ".join([*chain, module])
        if module in edges and module not in done:
            for other in sorted(edges[module]):
                visit(other, [*chain, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])


def _is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
