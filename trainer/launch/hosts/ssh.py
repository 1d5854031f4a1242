"""Starts DeepSpeed's launcher on the hosts of a host file, by pdsh and ssh."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer import processes, run_directory, trackers
from trainer.command_line import encode
from trainer.launch import deepspeed
from trainer.launch.hosts.check import SSH_OPTIONS
from trainer.launch.session import kill_session

_FORWARDED = (
    run_directory.RUN_VARIABLE,
    "DS_ACCELERATOR",
    "PATH",
    "TORCH_EXTENSIONS_DIR",
    *trackers.VARIABLES,
)
_FORWARDED_PREFIXES = ("MEALREC_", "NCCL_", "GLOO_", "FI_", "OMP_", "MALLOC_")


def run(
    arguments: Sequence[str], *, hostfile: str, port: int, timeout: float, on_gpu: bool, run_dir: Path
) -> int:
    """Run `deepspeed launch.sh ARGUMENTS` on the hosts of a host file to its end.

    Rank 0's host has `port` free. When one host has ended, the others have `timeout` seconds to end too; 0 is
    no limit.

    Returns:
        The launcher's exit code.

    Raises:
        Hung: a process of this host was stopped for `timeout` seconds.
        deepspeed.Stopped: on SIGINT, SIGTERM or SIGHUP. Ranks end as their connections do.
    """
    env = deepspeed.environment(on_gpu, run_dir)
    env["PDSH_SSH_ARGS_APPEND"] = " ".join([env.get("PDSH_SSH_ARGS_APPEND", ""), *SSH_OPTIONS])
    with tempfile.NamedTemporaryFile("w", prefix="mealrec-environment-") as file:
        file.write(forwarded(env))
        file.flush()
        env["DS_ENV_FILE"] = file.name
        # With --force_multi a single host is a remote one too.
        command = [
            sys.executable, "-m", "trainer.launch.hosts.supervisor", str(timeout), *deepspeed.runner(port),
            "--hostfile", hostfile, "--force_multi", "--launcher", "pdsh",
            *deepspeed.script(), encode(arguments),
        ]  # fmt: skip
        return deepspeed.run_to_end(command, env, kill_session, timeout)


def forwarded(env: dict[str, str]) -> str:
    """Return the text of DeepSpeed's environment file: the user's own, then what other hosts need of ours."""
    lines = []
    for folder in (Path.home(), Path.cwd()):
        with contextlib.suppress(OSError):
            lines += (folder / ".deepspeed_env").read_text(encoding="utf-8").splitlines()
    for name, value in env.items():
        if (
            name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)
        ) and name != processes.OPERATOR_VARIABLE:
            # DeepSpeed puts a value with such characters into double quotes for the remote shell.
            lines.append(f"{name}=" + re.sub(r'([$"`\\])', r"\\\1", value))
    return "".join(f"{line}\n" for line in lines if "=" in line)
