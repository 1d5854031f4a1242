"""`python -m trainer.launch.hosts.probe [DATA]` prints what a host has for a run, as JSON."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata

from trainer.errors import is_mistake, line_of
from trainer.launch import machine
from trainer.source import ROOT

# What must be the same wherever ranks of one run compute.
PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")
SOURCES = ("mealrec", "shards", "trainer")


@dataclass(frozen=True)
class HostReport:
    """What a host has.

    Attributes:
        versions: of Python and PACKAGES, "missing" where one is.
        code: a digest of the source that a run uses.
        gpus: how many.
        port: one that the ranks could meet on, if this is the first host.
        fingerprint: of the data set as this host sees it; None where none was named or it cannot be opened.
        data_error: why it cannot be opened, empty where it can.
    """

    versions: dict[str, str]
    code: str
    gpus: int
    port: int
    fingerprint: str | None = None
    data_error: str = ""


def code_digest() -> str:
    """Return a digest of the source that a run uses."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*")):
        if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Return Python's version and those of PACKAGES, "missing" where one is."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "missing"
    return versions


def probe(data: str | None) -> HostReport:
    """Return this host's report; `data` is the path of the data set, if there is one."""
    fingerprint, error = None, ""
    if data is not None:
        from shards import Index

        try:
            fingerprint = Index.load(data).fingerprint
        except Exception as caught:
            if not is_mistake(caught):
                raise
            error = line_of(caught)
    return HostReport(
        package_versions(), code_digest(), len(machine.gpus()), machine.free_port(""), fingerprint, error
    )


if __name__ == "__main__":
    print(json.dumps(asdict(probe(sys.argv[1] if len(sys.argv) > 1 else None))))
