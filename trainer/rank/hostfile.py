"""Refuses a run whose host file is missing, where `deepspeed --hostfile FILE` itself started the ranks.

DeepSpeed only warns, and trains on this host alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

import psutil

from trainer.errors import UserError


def refuse_missing() -> None:
    """Check the host file that this rank's DeepSpeed runner was given.

    Raises:
        UserError: there is no such file.
    """
    with contextlib.suppress(psutil.Error):
        launch = psutil.Process(os.getppid())
        if "deepspeed.launcher.launch" not in launch.cmdline():
            return
        runner = launch.parent()
        if runner is None:
            return
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-H", "--hostfile")
        path = parser.parse_known_args(runner.cmdline())[0].hostfile
        if path and not (Path(runner.cwd()) / path).is_file():
            raise UserError(f"--hostfile {path}: no such file; DeepSpeed would train on this host alone")
