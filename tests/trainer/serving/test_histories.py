"""Histories are read the same from every format, and a malformed one is named by file, row and field."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import DataError
from trainer.errors import UserError
from trainer.serving.histories import History, peek, read_histories

ROWS = [("ann", ["17", "4"]), ("bob", []), ("cem", ["4", "x", "4"])]


def content(path: Path) -> list[tuple[int | str, list[int | str]]]:
    return [(history.user, history.items) for history in read_histories(str(path))]


def test_every_format_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table(
        {"history": [items for _, items in ROWS], "user": [user for user, _ in ROWS], "more": [1, 2, 3]}
    )
    pq.write_table(table, tmp_path / "h.parquet")
    (tmp_path / "h.csv").write_text("user,history\n" + "".join(f"{u},{' '.join(i)}\n" for u, i in ROWS))
    lines = "".join(json.dumps({"user": u, "history": i}) + "\n\n" for u, i in ROWS)
    (tmp_path / "h.jsonl").write_text(lines)
    for name in ("h.parquet", "h.csv", "h.jsonl"):
        assert content(tmp_path / name) == ROWS
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert [(history.user, history.items) for history in read_histories("-")] == ROWS


def test_integers_stay_integers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [5, 6], "history": [[1], [2, 3]]}), tmp_path / "h.parquet")
    (tmp_path / "h.jsonl").write_text('{"user": 5, "history": [1]}\n{"user": 6, "history": [2, 3]}')
    for name in ("h.parquet", "h.jsonl"):
        assert content(tmp_path / name) == [(5, [1]), (6, [2, 3])]


def test_the_type_of_users_is_known_before_they_are_used() -> None:
    histories = [History(3, [1], "row 1"), History(4, [], "row 2")]
    kind, again = peek(iter(histories))
    assert kind is int and [*again] == histories
    kind, again = peek(iter(()))
    assert kind is str and not [*again]


@pytest.mark.parametrize(
    "line, fault",
    [
        ('{"user": 1, "history": [1]', ":2: not readable as JSON"),
        ('{"user": 1}', r':2: found {"user": 1}, expected {"user": .., "history": [..]}'),
        ("[1, 2]", ":2: found [1, 2], expected"),
        ('{"user": null, "history": []}', ":2: user: found None, expected an integer or text"),
        ('{"user": true, "history": []}', ":2: user: found True"),
        ('{"user": 1, "history": "4 5"}', ":2: history: found '4 5', expected a list of ids"),
        ('{"user": 1, "history": [4, 5.5]}', ":2: history: found 5.5, expected an integer or text"),
        ('{"user": "ann", "history": []}', ":2: user: found 'ann', expected an integer as in the first"),
        ('{"user": 9223372036854775808, "history": []}', "expected an integer of 64 bits"),
        ("[" * 100_000, ":2: not readable as JSON"),
    ],
)
def test_a_malformed_line(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "h.jsonl"
    file.write_text(f'{{"user": 0, "history": [1]}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        content(file)
    assert fault in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("user,items\n1,2\n", "found the columns user, items, expected user and history"),
        ("user,history\n1,2 3\n1,2,3\n", ":3: found 3 fields, expected 2"),
        ("", "empty"),
    ],
)
def test_a_malformed_table(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(DataError, match=fault):
        content(tmp_path / "h.csv")


@pytest.mark.parametrize(
    "columns, fault",
    [
        ({"user": [1], "items": [[1]]}, "found the columns user, items, expected user and history"),
        ({"user": [1.5], "history": [[1]]}, "column user: found double, expected integers or text"),
        ({"user": [1], "history": ["1 2"]}, "column history: found string, expected lists of integers"),
        ({"user": [1], "history": [[1.5]]}, "column history: found list<element: double>"),
        ({"user": [1, 2], "history": [[1], None]}, "row 2, column history: found null"),
        ({"user": [1, 2], "history": [[1], [None, 3]]}, "row 2, column history: found null"),
        ({"user": [1, None], "history": [[1], [3]]}, "row 2, column user: found null"),
    ],
)
def test_a_malformed_parquet_file(tmp_path: Path, columns: dict, fault: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "h.parquet")
    with pytest.raises(DataError, match=fault):
        content(tmp_path / "h.parquet")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="h.txt: expected a name that ends in .parquet, .csv, .jsonl, or -"):
        read_histories(str(tmp_path / "h.txt"))
    with pytest.raises(UserError, match="h.csv: no such file"):
        read_histories(str(tmp_path / "h.csv"))
    (tmp_path / "h.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="h.parquet: not readable as Parquet after row 0"):
        content(tmp_path / "h.parquet")
