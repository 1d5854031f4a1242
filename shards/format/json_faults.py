"""What is wrong with a JSON file, in the words of this project's errors."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found: its field, what was found and what was expected."""
    fault = error.errors(include_url=False, include_context=False)[0]
    if fault["type"] == "json_invalid":
        return f"not readable as JSON: {fault['msg'].removeprefix('Invalid JSON: ')}"
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "missing":
        return f"field {field} is missing"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{f'field {field}: ' if field else ''}found {_shown(fault['input'])}, expected {expected}"


def _shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print a number of more than 4,300 digits
        return "a number of thousands of digits"
