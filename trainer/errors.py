"""The mistakes a user can make: each is one clear line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import sys

DONE, FAILED, MISTAKE = 0, 1, 2  # exit codes of every command of this package

SHOWN_PATH = 80  # characters of a path that is too long


class UserError(Exception):
    """A user's mistake; the message is the one line that they will read."""


class RunEnded(Exception):
    """A run ends before it is finished, by no mistake of the user; the message is one line, exit code 1."""

    on_all_ranks = True  # raised by every rank at once


class Unwritable(RunEnded):
    """A folder of the run can no longer be written."""

    on_all_ranks = False


class EchoedError(UserError):
    """A mistake that another rank reports; this rank ends silently."""


def is_mistake(error: BaseException) -> bool:
    """Whether `error` is a user's mistake: ours, a fault in the data, a bad model configuration, a long path.

    An error of a module that was never imported cannot have been raised, so nothing is imported to find out.
    """
    kinds: list[type] = [UserError]
    for module, name in (("mealrec.errors", "ConfigError"), ("shards.errors", "DataError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(kinds)) or _is_long_path(error)


def line_of(error: BaseException) -> str:
    """Return the error's message as the one line that is printed after `error: `."""
    if _is_long_path(error):
        path = str(getattr(error, "filename", ""))
        return f"{path[:SHOWN_PATH]}... is {len(path)} characters long: the file system takes no such path"
    return " ".join(str(error).split())


def report(error: BaseException) -> int:
    """Print a user's mistake as its one line on stderr. Returns the exit code."""
    print(f"error: {line_of(error)}", file=sys.stderr, flush=True)
    return MISTAKE


def _is_long_path(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
