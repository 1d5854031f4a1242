"""A host file as DeepSpeed and Open MPI know it: `NAME slots=N` a line, `#` for comments."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer.errors import UserError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s+slots=(?P<slots>[0-9]+)")


@dataclass(frozen=True)
class Host:
    """A name that ssh knows, and how many ranks it takes: its GPUs, or CPU ranks."""

    name: str
    slots: int


def read(path: str | Path) -> list[Host]:
    """The hosts of a file in their order; the first one has rank 0.

    Raises:
        UserError: no such file, a line of another form, a host twice, no host at all. DeepSpeed alone would
            train on one host where the file is missing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise UserError(f"--hostfile {path} cannot be read: {reason}") from None
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None or int(found["slots"]) < 1:
            raise UserError(f"--hostfile {path}, line {number}: found {text!r}, expected NAME slots=N")
        if found["name"] in hosts:
            raise UserError(f"--hostfile {path}, line {number}: {found['name']} is there twice")
        hosts[found["name"]] = Host(found["name"], int(found["slots"]))
    if not hosts:
        raise UserError(f"--hostfile {path} names no host: expected lines NAME slots=N")
    return list(hosts.values())


def refuse_missing() -> None:
    """For a rank that `deepspeed --hostfile FILE` has started: raises UserError where there is no such file.

    DeepSpeed only warns, and trains on this host alone.
    """
    with contextlib.suppress(psutil.Error):
        launch = psutil.Process(os.getppid())
        if "deepspeed.launcher.launch" not in launch.cmdline():
            return
        runner = launch.parent()
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-H", "--hostfile")
        path = parser.parse_known_args(runner.cmdline())[0].hostfile
        if path and not (Path(runner.cwd()) / path).is_file():
            raise UserError(f"--hostfile {path}: no such file; DeepSpeed would train on this host alone")
