"""The fields of a log: for each, the SQL expression that reads it and the same judgement in Python.

An expression is NULL where the value is malformed. DuckDB reads millions of rows by the expressions; only
when it met a malformed one does Python look for its line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

PARTS = ("train", "valid", "test")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")


@dataclass(frozen=True)
class Field:
    """A column of the source.

    sql: its value, given the column as a SQL expression; `valid` judges its text, `expected` is for messages.
    """

    column: str
    sql: Callable[[str], str]
    valid: Callable[[str], bool]
    expected: str


def quote(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(column: str) -> Field:
    """An id, as text, not empty."""
    return Field(column, lambda name: f"nullif(CAST({name} AS VARCHAR), '')", bool, "an id")


def number_time(column: str) -> Field:
    """A time in numbers since an epoch, of any unit; fractions are cut off."""

    def sql(name: str) -> str:
        text = f"CAST({name} AS VARCHAR)"
        whole, cut = f"TRY_CAST({text} AS BIGINT)", f"TRY_CAST(floor({_finite(text)}) AS BIGINT)"
        return f"CASE WHEN regexp_full_match({text}, '[+-]?[0-9]+') THEN {whole} ELSE {cut} END"

    return Field(
        column, sql, _is_int64, "a time in whole numbers, such as seconds or milliseconds since 1970"
    )


def iso_time(column: str) -> Field:
    """A date or time such as `2022-04-10 08:59:09`, read as UTC, kept in milliseconds."""
    expected = "a time such as 2022-04-10 08:59:09, as in the first row"
    return Field(column, lambda name: f"epoch_ms(TRY_CAST({name} AS TIMESTAMP))", is_iso, expected)


def flag(column: str) -> Field:
    """1 or 0, true or false."""
    true, false = (", ".join(literal(text) for text in texts) for texts in (_TRUE, _FALSE))

    def sql(name: str) -> str:
        text = f"lower(CAST({name} AS VARCHAR))"
        return f"CASE WHEN {text} IN ({true}) THEN true WHEN {text} IN ({false}) THEN false END"

    return Field(column, sql, lambda text: text.lower() in _TRUE + _FALSE, "1 or 0")


def at_least(column: str, least: float) -> Field:
    """Whether a rating is `least` or more."""

    def sql(name: str) -> str:
        return f"{_finite(f'CAST({name} AS VARCHAR)')} >= {least}"

    return Field(column, sql, _is_number, "a number")


def part(column: str) -> Field:
    """train, valid or test as 0, 1, 2."""
    cases = " ".join(f"WHEN {literal(name)} THEN {number}" for number, name in enumerate(PARTS))
    expected = "train, valid or test"
    return Field(
        column,
        lambda name: f"CASE lower(CAST({name} AS VARCHAR)) {cases} END",
        lambda text: text.lower() in PARTS,
        expected,
    )


def is_iso(text: str) -> bool:
    """Whether a text is a date or time, not a plain number."""
    try:
        datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return False
    return not _is_number(text)


def _finite(sql: str) -> str:
    number = f"TRY_CAST({sql} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_int64(text: str) -> bool:
    return _is_number(text) and abs(float(text)) < 2**63
