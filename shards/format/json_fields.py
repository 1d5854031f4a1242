"""A JSON object read field by field, with its location in every error."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from shards.errors import DataError

T = TypeVar("T")


class JsonFields:
    """The fields of a parsed JSON object; `location` says in which file and part of it the object is."""

    def __init__(self, raw: Any, location: str):
        if not isinstance(raw, dict):
            raise DataError(f"{location}: found {type(raw).__name__}, expected an object")
        self.raw, self.location = raw, location

    def take(self, name: str, kind: type[T], least: int | None = None, choices: tuple[str, ...] = ()) -> T:
        """The value of a field that must be there, a `kind`, at least `least` and one of `choices`.

        Raises:
            DataError: it is not.
        """
        if name not in self.raw:
            raise DataError(f"{self.location}: field {name} is missing")
        value = self.raw[name]
        right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if not right or (least is not None and value < least) or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else kind.__name__
            expected += f" >= {least}" if least is not None else ""
            raise DataError(f"{self.location}: field {name}: found {value!r:.60}, expected {expected}")
        return cast(T, value)

    def part(self, name: str) -> JsonFields:
        """The object in a field."""
        return JsonFields(self.take(name, dict), f"{self.location}: {name}")

    def optional_part(self, name: str) -> JsonFields | None:
        """The object in a field; None where the field is missing or null."""
        return self.part(name) if self.raw.get(name) is not None else None

    def parts(self, name: str) -> list[JsonFields]:
        """The objects in a field that is a list."""
        return [
            JsonFields(raw, f"{self.location}: {name}[{number}]")
            for number, raw in enumerate(self.take(name, list))
        ]
