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

from trainer.errors import UserError
from trainer.launch.hosts.hostfile import Host
from trainer.launch.hosts.probe import HostReport, probe
from trainer.source import ROOT

SECONDS = 60.0
"""Time in which a host must have answered."""
# No password is asked for, and a connection that has gone silent ends: ssh alone would wait for hours.
_SSH = {"BatchMode": "yes", "ConnectTimeout": 10, "ServerAliveInterval": 5, "ServerAliveCountMax": 2}
SSH_OPTIONS = [option for name, value in _SSH.items() for option in ("-o", f"{name}={value}")]


@dataclass(frozen=True)
class Common:
    """What all hosts have in common: whether ranks get GPUs, and the port where they meet."""

    on_gpu: bool
    port: int


def check_hosts(hosts: list[Host], data: str | None) -> Common:
    """Compare every host with this one.

    Raises:
        UserError: with every fault of every host: not reachable, another Python, package or code, the data
            set missing or another one, fewer GPUs than slots, no pdsh.
    """
    reports, faults = compare(hosts, data)
    if faults:
        raise UserError("--hostfile: " + "; ".join(faults))
    on_gpu = any(report.gpus for report in reports.values())
    for host, report in reports.items():
        if on_gpu and report.gpus < host.slots:
            raise UserError(f"--hostfile: {host.name} has {report.gpus} GPUs and slots={host.slots}")
    return Common(on_gpu, reports[hosts[0]].port)


def compare(hosts: list[Host], data: str | None) -> tuple[dict[Host, HostReport], list[str]]:
    """Return the reports of the hosts that could take part, and the faults of the others.

    Raises:
        UserError: this host cannot start others.
    """
    for program in ("ssh", "pdsh"):
        if shutil.which(program) is None:
            raise UserError(f"--hostfile needs {program}, which is not on the PATH")
    for path in (str(ROOT), sys.executable, os.getcwd()):
        if shlex.quote(path) != path:
            raise UserError(f"--hostfile: DeepSpeed's launcher takes no spaces or quotes, found {path!r}")
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = list(pool.map(lambda host: ask(host, data), hosts))
    here = probe(data)
    reports: dict[Host, HostReport] = {}
    faults: list[str] = []
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, str):
            faults.append(f"{host.name}: {answer}")
        elif found := differences(answer, here):
            faults += [f"{host.name}: {fault}" for fault in found]
        else:
            reports[host] = answer
    return reports, faults


def ask(host: Host, data: str | None) -> HostReport | str:
    """Return the host's report, or why there is none."""
    module = [sys.executable, "-m", "trainer.launch.hosts.probe"]
    command = shlex.join(
        ["env", f"PYTHONPATH={ROOT}", *_kept(), *module, *([data] if data is not None else [])]
    )
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
        return f"{sys.executable} there cannot run the code in {ROOT}: {last}"
    try:
        return HostReport(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        return f"its shell adds to what programs print: found {done.stdout[-80:]!r}, expected JSON"


def differences(there: HostReport, here: HostReport) -> list[str]:
    """Return what keeps a host from taking part, as sentences."""
    faults = [
        f"{name} {there.versions.get(name, 'missing')}, here {version}"
        for name, version in here.versions.items()
        if there.versions.get(name) != version
    ]
    if there.code != here.code:
        faults.append(f"other code in {ROOT} (digest {there.code}, here {here.code})")
    if there.data_error:
        faults.append(there.data_error)
    elif there.fingerprint != here.fingerprint:
        fingerprints = [str(report.fingerprint)[:19] for report in (there, here)]
        faults.append(f"another data set ({fingerprints[0]}..., here {fingerprints[1]}...)")
    return faults


def _kept() -> list[str]:
    """Variables that decide what a probe sees."""
    return [
        f"{name}={os.environ[name]}" for name in ("DS_ACCELERATOR", "MEALREC_CACHE") if name in os.environ
    ]
