#!/bin/sh
# Prints the interpreter of an environment that has what this project needs, and makes one where there is none.
#
#   ./environment.sh        to train:   an active environment that has the dependencies, else .venv
#   ./environment.sh dev    to develop: the same, with the extras dev, docs, export, frames and tune
#   ./environment.sh rank   for a rank: never installs anything
#
# .venv is made once, under a lock, from pyproject.toml and constraints.txt; an interrupted or outdated installation
# is finished at the next start. $PYTHON names the interpreter to make it with. Messages go to stderr.
# environment.py does the work; this file finds a Python to run it with.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
purpose=${1:-run}

for candidate in python python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" "$here/environment.py" active "$purpose" 2>/dev/null; then
        exit 0
    fi
done
for candidate in "$PYTHON" python3 python python3.13 python3.12 python3.11 python3.10; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        exec "$candidate" "$here/environment.py" make "$purpose"
    fi
done
echo "error: no Python 3.10 or newer on the PATH: install one, or name it with PYTHON=/path/to/python3" >&2
exit 1
