"""A host file as DeepSpeed and Open MPI know it: `NAME slots=N` a line, `#` for comments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainer import files
from trainer.errors import UserError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s+slots=(?P<slots>[0-9]+)")


@dataclass(frozen=True)
class Host:
    """A name that ssh knows, and how many ranks it takes: its GPUs, or CPU ranks."""

    name: str
    slots: int


def write(path: Path, hosts: list[Host]) -> None:
    """Write a host file that `read` returns as `hosts`."""
    files.write_text(path, "".join(f"{host.name} slots={host.slots}\n" for host in hosts))


def read(path: str | Path) -> list[Host]:
    """Return the hosts of a file in their order; the first one has rank 0.

    Raises:
        UserError: no such file, a line of another form, a host twice, no host at all. DeepSpeed alone would
            train on one host where the file is missing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"--hostfile {path} cannot be read: {reason}") from None
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None or int(match["slots"]) < 1:
            raise UserError(f"--hostfile {path}, line {number}: found {text!r}, expected NAME slots=N")
        if match["name"] in hosts:
            raise UserError(f"--hostfile {path}, line {number}: {match['name']} is there twice")
        hosts[match["name"]] = Host(match["name"], int(match["slots"]))
    if not hosts:
        raise UserError(f"--hostfile {path} names no host: expected lines NAME slots=N")
    return list(hosts.values())
