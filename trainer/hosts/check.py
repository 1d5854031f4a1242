"""Asks every host of a host file, all at once, whether a run could start there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError
from trainer.hosts import probe
from trainer.hosts.hostfile import Host

SECONDS = 60.0  # in which a host must have answered
# No password is asked for, and a connection that has gone silent ends: ssh alone would wait for hours.
_SSH = {"BatchMode": "yes", "ConnectTimeout": 10, "ServerAliveInterval": 5, "ServerAliveCountMax": 2}
SSH_OPTIONS = [word for name, value in _SSH.items() for word in ("-o", f"{name}={value}")]


@dataclass(frozen=True)
class Found:
    """What all hosts have in common: whether ranks get GPUs, and where they meet."""

    on_gpu: bool
    port: int


def check(hosts: list[Host], data: str | None) -> Found:
    """Compares every host with this one.

    Raises:
        UserError: with every fault of every host: not reachable, another Python, package or code, the data
            set missing or another one, fewer GPUs than slots, no pdsh.
    """
    for program in ("ssh", "pdsh"):
        if shutil.which(program) is None:
            raise UserError(f"--hostfile needs {program}, which is not on the PATH")
    for path in (str(probe.ROOT), sys.executable, os.getcwd()):
        if shlex.quote(path) != path:
            raise UserError(f"--hostfile: DeepSpeed's launcher takes no spaces or quotes, found {path!r}")
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = list(pool.map(lambda host: ask(host, data), hosts))
    here = probe.probe(data)
    faults = [
        f"{host.name}: {fault}"
        for host, answer in zip(hosts, answers, strict=True)
        for fault in ([answer] if isinstance(answer, str) else differences(answer, here))
    ]
    if faults:
        raise UserError("--hostfile: " + "; ".join(faults))
    on_gpu = any(answer["gpus"] for answer in answers)
    for host, answer in zip(hosts, answers, strict=True):
        if on_gpu and answer["gpus"] < host.slots:
            raise UserError(f"--hostfile: {host.name} has {answer['gpus']} GPUs and slots={host.slots}")
    return Found(on_gpu, answers[0]["port"])


def ask(host: Host, data: str | None) -> dict[str, Any] | str:
    """The host's probe, or why there is none."""
    words = ["env", f"PYTHONPATH={probe.ROOT}", *_kept(), sys.executable, "-m", "trainer.hosts.probe"]
    command = shlex.join(words + ([data] if data is not None else []))
    try:
        done = subprocess.run(
            ["ssh", *SSH_OPTIONS, host.name, command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer by ssh within {SECONDS:g} s"
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    if done.returncode == 255:
        return f"not reachable by ssh without a password: {last}"
    if done.returncode:
        return f"{sys.executable} there cannot run the code in {probe.ROOT}: {last}"
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return f"its shell adds to what programs print: found {done.stdout[-80:]!r}, expected JSON"


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What keeps a host from taking part, in words."""
    faults = [
        f"{name} {there['versions'][name]}, here {version}"
        for name, version in here["versions"].items()
        if there["versions"][name] != version
    ]
    if there["code"] != here["code"]:
        faults.append(f"other code in {probe.ROOT} (digest {there['code']}, here {here['code']})")
    if "error" in there["data"]:
        faults.append(there["data"]["error"])
    elif there["data"] != here["data"]:
        prints = [side["data"]["fingerprint"][:19] for side in (there, here)]
        faults.append(f"another data set ({prints[0]}..., here {prints[1]}...)")
    return faults


def _kept() -> list[str]:
    """Variables that decide what a probe finds."""
    return [
        f"{name}={os.environ[name]}" for name in ("DS_ACCELERATOR", "MEALREC_CACHE") if name in os.environ
    ]
