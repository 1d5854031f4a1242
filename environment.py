"""Finds or makes the Python environment of this project. `environment.sh` calls it.

    python environment.py active PURPOSE  # prints this interpreter, or exits with 1 if it lacks a dependency
    python environment.py make PURPOSE    # makes .venv, or finishes it, and prints its interpreter

PURPOSE is run, dev or rank. It runs before anything is installed, so it uses the standard library alone;
pyproject.toml says what is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import operator
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).absolute().parent
PROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
VENV, LOCK = ROOT / ".venv", ROOT / ".venv.lock"
PYTHON, LOG = VENV / "bin" / "python", VENV / "install.log"
EXTRAS = {
    "dev": ("dev", "docs", "export", "frames", "mlflow", "report", "tune", "wandb")
}  # purpose -> extras of the package
COMPARISONS = {">=": operator.ge, "<": operator.lt, "==": operator.eq}
OFFLINE = ("NewConnectionError", "Temporary failure", "timed out", "error sending request")


def say(message: str) -> None:
    """Print a message for the user."""
    print(message, file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """End with one line that says what is wrong."""
    say(f"error: {message}")
    sys.exit(1)


# What is needed, and whether this interpreter has it.


def requirements(purpose: str) -> list[str]:
    """Requirements of pyproject.toml for a purpose."""
    text = PROJECT.read_text(encoding="utf-8")
    extras = read_arrays(text, "project.optional-dependencies")
    needed = list(read_arrays(text, "project")["dependencies"])
    for extra in EXTRAS.get(purpose, ()):
        needed += extras.get(extra, [])
    return needed


def read_arrays(text: str, table: str) -> dict[str, list[str]]:
    """Arrays of strings in a table of a TOML file, by name. Python 3.10 has no tomllib."""
    match = re.search(rf"^\[{re.escape(table)}\]$(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    body = match[1] if match else ""
    arrays = re.findall(r'^([\w-]+) *= *\[((?:"[^"]*"|#.*|[^]"#])*)\]', body, re.MULTILINE)
    return {
        name: [string for string in re.findall(r'#.*|"([^"]*)"', array) if string] for name, array in arrays
    }


def is_installed(requirement: str) -> bool:
    """Whether this interpreter has a distribution, within its bounds, with its extras.

    A pre-release counts as the release it precedes: vendors' images have such builds of PyTorch.

    Raises:
        ValueError: a form of requirement that this file does not know, such as one with a marker.
    """
    from importlib import metadata  # slow to import, and not needed where .venv is ready

    match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?((?:,?(?:>=|<|==)[\d.]+)*)", requirement)
    if not match:
        raise ValueError(f"pyproject.toml: unknown form of requirement: {requirement!r}")
    name, extras, bounds = match.groups()
    try:
        version = release(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    ends = re.findall("([<>=]+)([^,]+)", bounds)
    within = all(COMPARISONS[sign](version, release(end)) for sign, end in ends)
    return within and all(has_extra(name, extra) for extra in re.findall("[^,]+", extras or ""))


def release(version: str) -> tuple[int, ...]:
    """Numbers of a version, without zeros at the end: (2, 10) of 2.10.0+cpu."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)*$", "", numbers[0]).split("."))) if numbers else ()


def has_extra(name: str, extra: str) -> bool:
    """Whether what an extra adds to an installed distribution is there, in any version.

    What it adds only on some platforms or Pythons is left to the installer.
    """
    from importlib import metadata

    added = re.compile(rf"([\w.-]+)[^;]*; *extra *== *['\"]{re.escape(extra)}['\"]")
    matches = map(added.fullmatch, metadata.requires(name) or [])
    return all(is_installed(match[1]) for match in matches if match)


# Making .venv.


def make(purpose: str) -> None:
    """Make .venv ready for a purpose; starts at the same time wait for each other."""
    if is_ready(purpose):
        return
    if purpose == "rank":
        fail("no Python with the dependencies: activate the environment that deepspeed was started from")
    with locked():
        if not is_ready(purpose):  # another start may have made it
            install(purpose)


def is_ready(purpose: str) -> bool:
    """Whether .venv was installed from the files as they are now; one for dev is enough to train."""
    stamps = [stamp("dev")] if purpose == "dev" else [stamp("dev"), stamp("run")]
    current = fingerprint()
    return PYTHON.exists() and any(file.is_file() and file.read_text() == current for file in stamps)


def stamp(purpose: str) -> Path:
    """File that says from what .venv was installed."""
    return VENV / f".installed-{purpose}"


def fingerprint() -> str:
    """Digest of the files that say what to install."""
    return hashlib.sha256(PROJECT.read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock for making .venv."""
    try:
        file = open(LOCK, "w")  # noqa: SIM115 (closed below; only opening it may fail like this)
    except OSError as error:
        fail(f"the environment cannot be made in {ROOT}: {error.strerror}")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making the environment: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(purpose: str) -> None:
    """Install the package with its dependencies into .venv, which is made where there is none."""
    uv = find_uv()
    if not (PYTHON.exists() if uv else has_pip()):
        create(uv)
    say(f"installing the dependencies: some minutes, once (log: {LOG})")
    command = (
        [uv, "pip", "install", "--python", str(PYTHON)]
        if uv
        else [str(PYTHON), "-m", "pip", "install", "--no-input"]
    )
    extras = ",".join(EXTRAS.get(purpose, ()))
    command += ["-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]" if extras else str(ROOT)]
    with open(LOG, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    if done.returncode:
        text = LOG.read_text(errors="replace")
        causes = [line for line in text.splitlines() if line.startswith(("ERROR", "error:"))]
        if any(sign in text for sign in OFFLINE):
            causes.append("the package registry cannot be reached")
        cause = causes[-1] if causes else "see the log"
        fail(f"the dependencies could not be installed: {cause} ({LOG})")
    stamp(purpose).write_text(fingerprint())


def find_uv() -> str | None:
    """Path of uv where it may install: faster than pip, but it does not read the user's pip configuration."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    settings = run([sys.executable, "-m", "pip", "config", "list"])
    return uv if settings.returncode == 0 and not settings.stdout.strip() else None


def has_pip() -> bool:
    """Whether .venv has an interpreter with pip."""
    return PYTHON.exists() and run([str(PYTHON), "-m", "pip", "--version"]).returncode == 0


def create(uv: str | None) -> None:
    """Make an empty .venv."""
    if uv is None and not all(map(importlib.util.find_spec, ("ensurepip", "venv"))):
        version = "{}.{}".format(*sys.version_info)
        fail(f"{sys.executable} has no venv module: install it (on Debian: apt install python{version}-venv)")
    say(f"making an environment in {VENV} with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    maker = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    done = run([*maker, str(VENV)])
    if done.returncode:
        fail(f"{sys.executable} cannot make an environment in {VENV}: {' '.join(done.stdout.split())}")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and keep what it prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def main() -> None:
    """Do what the command line says."""
    command, purpose = sys.argv[1:]
    if command == "active":
        if sys.version_info < (3, 10) or not all(map(is_installed, requirements(purpose))):
            sys.exit(1)
        print(sys.executable)
    else:
        make(purpose)
        print(PYTHON)


if __name__ == "__main__":
    main()
