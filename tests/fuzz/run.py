"""Fuzzes readers: `python -m tests.fuzz.run [TARGET ...] [--cases X] [--seed S] --keep DIR`.

An input is at fault that raises anything but the errors of this project, takes longer than `SECONDS`, or
makes the process grow by more than `MEMORY`. It is kept in DIR and reported; the run goes on to the end, exit
code 1. With `--cases 0` the first target goes on for ever. An input that kills the process is left as
DIR/TARGET-last.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import itertools
import math
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

from tests.fuzz.mutations import mutate
from tests.fuzz.targets import EXPECTED, TARGETS, Target

SECONDS = 20
MEMORY = 2 << 30  # bytes of address space beyond what the process has when it starts

_M_ARENA_MAX = -8


class Slow(BaseException):
    """An input took too long."""


def attempt(target: Target, content: bytes, folder: Path) -> str | None:
    """Read an input; the traceback where it is at fault."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, 3 * SECONDS)  # ends the process: for code that never comes back
    try:
        target.read(content, folder)
    except EXPECTED:
        return None
    except (Exception, Slow):
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def limit() -> None:
    """Bound time and memory of what this process does from now on."""

    def slow(*_: object) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, slow)
    faulthandler.enable()
    faulthandler.register(signal.SIGVTALRM, chain=True)
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # each arena reserves 64 MiB of address space
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def fuzz(name: str, cases: int, seed: int, keep: Path, folder: Path) -> int:
    """Read mutated inputs of one kind. Returns the number of faults, which are printed once each."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    seeds, last = target.seeds(folder), keep / f"{name}-last"
    places: set[str] = set()
    for _ in range(cases) if cases else itertools.count():
        content = mutate(rng, rng.choice(seeds), seeds)
        if rng.random() < 0.7:
            content = target.repair(content)
        last.write_bytes(content)
        fault = attempt(target, content, folder)
        if fault is None:
            continue
        place = next(line for line in reversed(fault.splitlines()) if line.startswith('  File "'))
        if place not in places:
            places.add(place)
            kept = keep / f"{name}-{zlib.crc32(content):08x}"
            kept.write_bytes(content)
            print(f"{kept}:\n{fault}", flush=True)
    last.unlink()
    return len(places)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all")
    parser.add_argument("--cases", type=float, default=1.0, help="times the target's own number; 0: for ever")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    faults = total = 0
    limit()
    for name in arguments.targets or TARGETS:
        cases, started = math.ceil(arguments.cases * TARGETS[name].cases), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(name, cases, arguments.seed, arguments.keep, Path(folder))
        seconds = time.process_time() - started
        print(f"{name:16s} {cases:7,} cases {seconds:6.1f} s, {found} faults", flush=True)
        faults, total = faults + found, total + cases
    print(f"{total:,} cases, {faults} faults, {peak():.0f} MiB at most")
    return 1 if faults else 0


def peak() -> float:
    """The most memory that was resident, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
