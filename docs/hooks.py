"""MkDocs hooks: the pages that are made from the checkout, so that nothing is written twice.

README.md is the home page, and CONTRIBUTING.md and CHANGELOG.md become pages. The reference has one page per
folder of the source, with the docstrings of its modules.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("mealrec", "shards", "trainer", "tune")
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the navigation, one section per room."""
    reference = [{room: [reference_page(package) for package in packages(room)]} for room in ROOMS]
    config.nav = [*(config.nav or []), {"Reference": reference}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the checkout."""
    pages = {page: site_links((ROOT / source).read_text()) for source, page in PAGES.items()}
    pages |= {reference_page(package): reference(package) for room in ROOMS for package in packages(room)}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def site_links(text: str) -> str:
    """Links of a file in the root of the checkout, as they are on the site."""
    text = text.replace("](docs/", "](")
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def packages(room: str) -> list[Path]:
    """The folders of a room that are packages, the room itself first."""
    folders = [ROOT / room, *(path for path in sorted((ROOT / room).rglob("*")) if path.is_dir())]
    return [folder for folder in folders if (folder / "__init__.py").is_file()]


def dotted(path: Path) -> str:
    """The name by which Python imports a folder or file of the checkout."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def reference_page(package: Path) -> str:
    """The page of a package: reference/mealrec.ops.md."""
    return f"reference/{dotted(package)}.md"


def reference(package: Path) -> str:
    """The content of a package's page: what its `__init__.py` defines, then each public module."""
    defined = ast.parse((package / "__init__.py").read_text()).body
    names = [node.name for node in defined if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    own = [name for name in names if not name.startswith("_")]  # what it imports is shown in its module
    options = f"options: {{show_root_heading: false, members: {own or 'false'}}}"
    modules = [path for path in sorted(package.glob("*.py")) if not path.name.startswith("_")]
    blocks = [f"# {dotted(package)}", f"::: {dotted(package)}\n    {options}"]
    return "\n\n".join([*blocks, *(f"::: {dotted(module)}" for module in modules)]) + "\n"
