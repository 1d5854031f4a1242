"""The error for faults in a user's data, and spelling help for its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A fault in the user's data, or in how it was described.

    The message is one line that names file, record and field, what was found and what was expected.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    """A text as one line that any terminal shows as it is, wherever it came from."""
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    """A text with what a terminal would act on, or could not show, spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """The closest spellings of `name` for an error message; all choices (at most 12) where none is close."""
    names = [str(choice) for choice in choices]
    lowered = {choice.lower(): choice for choice in names}
    close = [lowered[hit] for hit in difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.5)]
    if close:
        return "nearest: " + ", ".join(repr(choice) for choice in close)
    return (
        "there are: " + ", ".join(repr(choice) for choice in names[:12]) + (" ..." if len(names) > 12 else "")
    )
