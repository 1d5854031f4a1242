"""What a host says of itself before a run starts on it: `python -m trainer.hosts.probe [DATA]` prints it as
JSON.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer import machine
from trainer.errors import is_mistake, line_of

ROOT = Path(__file__).resolve().parents[2]
# What must be the same wherever ranks of one run compute.
PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")
SOURCES = ("mealrec", "shards", "trainer")


def code() -> str:
    """A digest of the source that a run uses."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*")):
        if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES, `missing` where one is."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def data(path: str) -> dict[str, str]:
    """`fingerprint` of the data set at `path` as this host sees it, or the `error` that opening it gives."""
    from shards import Index

    try:
        return {"fingerprint": Index.load(path).fingerprint}
    except Exception as error:
        if not is_mistake(error):
            raise
        return {"error": line_of(error)}


def probe(path: str | None) -> dict[str, Any]:
    """All of it. `port` is one that the ranks could meet on, if this is the first host."""
    return {
        "versions": versions(),
        "code": code(),
        "gpus": len(machine.gpus()),
        "port": machine.free_port(""),
        "data": data(path) if path is not None else {},
    }


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1] if len(sys.argv) > 1 else None)))
