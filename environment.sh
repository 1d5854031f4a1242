#!/bin/sh
# Prints the interpreter of an environment that has what this project needs, and makes one where there is none.
#
#   ./environment.sh        to train:   an active environment that has the dependencies, else .venv
#   ./environment.sh dev    to develop: the same, with the extras dev and tune
#   ./environment.sh rank   for a rank: never installs anything
#
# .venv is made once, under a lock, from pyproject.toml and constraints.txt; an interrupted or outdated
# installation is finished at the next start. $PYTHON names the interpreter to make it with. Messages go to stderr.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
purpose=${1:-run}

has_dependencies='
import importlib.util, sys
modules = "aiohttp deepspeed duckdb filelock fsspec matplotlib numpy psutil pyarrow yaml".split()
modules += "tensorboard torch tqdm webdataset".split()
if sys.argv[1] == "dev":
    modules += ["aiohttp_cors", "pre_commit", "pytest", "ray", "ruff", "scipy"]
if sys.version_info < (3, 10) or not all(importlib.util.find_spec(module) for module in modules):
    sys.exit(1)
print(sys.executable)
'
for candidate in python python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$has_dependencies" "$purpose" 2>/dev/null; then
        exit 0
    fi
done

make_environment='
import fcntl, hashlib, pathlib, shutil, subprocess, sys

here, purpose = pathlib.Path(sys.argv[1]), sys.argv[2]
venv, log = here / ".venv", here / ".venv" / "install.log"
python = venv / "bin" / "python"

def say(*words):
    print(*words, file=sys.stderr, flush=True)

def fail(*words):
    say("error:", *words)
    sys.exit(1)

def has_pip():
    command = [python, "-m", "pip", "--version"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return python.exists() and subprocess.run(command, **quiet).returncode == 0

sources = [here / "pyproject.toml", here / "constraints.txt"]
wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()

def is_ready():
    stamps = [venv / ".installed-dev"] + ([venv / ".installed-run"] if purpose != "dev" else [])
    return any(stamp.is_file() and stamp.read_text() == wanted for stamp in stamps) and python.exists()

if not is_ready():
    if purpose == "rank":
        fail("no Python with the dependencies: activate the environment that deepspeed was started from")
    try:
        lock = open(here / ".venv.lock", "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making the environment: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        fail(f"the environment cannot be made in {here}: {error.strerror}")
if not is_ready():
    extras = "[dev,tune]" if purpose == "dev" else ""
    if not has_pip():
        try:
            import ensurepip, venv as _
        except ImportError:
            version = "{}.{}".format(*sys.version_info)
            fail(f"{sys.executable} has no venv module: install it (on Debian: apt install python{version}-venv)")
        say(f"making an environment in {venv} with Python {sys.version.split()[0]}")
        shutil.rmtree(venv, ignore_errors=True)
        command = [sys.executable, "-m", "venv", venv]
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode:
            fail(f"{sys.executable} cannot make an environment in {venv}:", " ".join(made.stdout.split()))
    say("installing the dependencies: some minutes, once (log:", f"{log})")
    pip = [python, "-m", "pip", "install", "--no-input", "-c", here / "constraints.txt", "-e", f"{here}{extras}"]
    with open(log, "w") as output:
        code = subprocess.run(pip, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
        signs = ("NewConnectionError", "Temporary failure", "timed out")
        if any(sign in log.read_text(errors="replace") for sign in signs):
            lines.append("the package registry cannot be reached")
        fail("the dependencies could not be installed:", (lines or ["see the log"])[-1], f"({log})")
    (venv / f".installed-{purpose}").write_text(wanted)
print(python)
'
for candidate in "$PYTHON" python3 python python3.13 python3.12 python3.11 python3.10; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        exec "$candidate" -c "$make_environment" "$here" "$purpose"
    fi
done
echo "error: no Python 3.10 or newer on the PATH: install one, or name it with PYTHON=/path/to/python3" >&2
exit 1
