"""The data set that a run makes for itself where none is named."""

from __future__ import annotations

import fcntl
from pathlib import Path

from trainer.errors import UserError

DEFAULT_DATA = Path("data/default")


def make_default_data(path: Path = DEFAULT_DATA) -> Path:
    """Make the synthetic world at `path`, once; a second start waits for the first.

    Raises:
        UserError: it cannot be written there.
    """
    if path.exists():
        return path
    from shards import synthesise

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.parent / f".{path.name}.lock", "w")  # noqa: SIM115 - held to the end of the block below
    except OSError as error:
        raise UserError(f"the default data set cannot be written to {path}: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            print(f"making the default data set, a synthetic world, in {path}", flush=True)
            synthesise(path)
    return path
