"""The command: what it writes, how it goes on after a cut, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
from filelock import FileLock

from shards import DataError
from trainer.errors import UserError
from trainer.serving import Recommender, output, recommend

HISTORIES = [[f"video {(user * 7 + step) % 40}" for step in range(user % 9)] for user in range(30)]


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    """Thirty users, four of them without a history, two unknown ids."""
    rows = [{"user": f"user {user}", "history": items} for user, items in enumerate(HISTORIES)]
    rows[3]["history"] = ["gone", *rows[3]["history"], "gone"]
    file = tmp_path / "histories.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(out: Path) -> list[dict]:
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    read = pyarrow.csv.read_csv if out.suffix == ".csv" else pyarrow.parquet.read_table
    return read(out).to_pylist()


def command(small_export: Path, histories: Path, out: Path, *more: str) -> int:
    return recommend.main([str(small_export), "--histories", str(histories), "--out", str(out), *more])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_rows_are_those_of_the_recommender(
    small_export: Path, small: Recommender, histories: Path, tmp_path: Path, suffix: str, capsys
) -> None:
    out = tmp_path / f"top{suffix}"
    assert command(small_export, histories, out, "--top", "3") == 0
    assert capsys.readouterr().out == (
        f"wrote {out}: the best 3 videos of 30 histories; unknown ids skipped: 2;"
        " histories without a known video, which have no rows: 4\n"
    )
    found = [(row["user"], row["rank"], row["item"]) for row in rows_of(out)]
    assert found == [
        (f"user {user}", rank, item)
        for user, best in enumerate(small.recommend(HISTORIES, k=3))
        for rank, (item, _) in enumerate(best, start=1)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {histories.name, out.name}  # no parts, no lock


def test_standard_input_and_output(small_export: Path, histories: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(histories.read_text()))
    assert recommend.main([str(small_export), "--histories", "-", "--out", "-", "--top", "2"]) == 0
    written = capsys.readouterr()
    rows = [json.loads(line) for line in written.out.splitlines()]
    assert len(rows) == 2 * 26 and set(rows[0]) == {"user", "rank", "item", "score"}
    assert written.err.startswith("wrote -: the best 2 videos of 30 histories")


def test_titles_and_lists(small_export: Path, histories: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "titles.csv").write_text('item,title\nvideo 1,"One, two"\nvideo 2,Two\nother,Three\n')
    (tmp_path / "allow.txt").write_text("video 1\nvideo 2\n\nvideo 3\nunknown\n")
    (tmp_path / "deny.txt").write_text("video 3\n")
    lists = ["--allow", str(tmp_path / "allow.txt"), "--deny", str(tmp_path / "deny.txt")]
    out = tmp_path / "top.parquet"
    command(
        small_export, histories, out, *lists, "--titles", str(tmp_path / "titles.csv"), "--no-mask-history"
    )
    assert {(row["item"], row["title"]) for row in rows_of(out)} == {
        ("video 1", "One, two"),
        ("video 2", "Two"),
    }
    assert "1 of 4 ids are unknown" in capsys.readouterr().err
    with pytest.raises(UserError, match="allow.txt: the model knows no video 'unknown'"):
        command(small_export, histories, tmp_path / "b.csv", *lists, "--strict")
    (tmp_path / "titles.csv").write_text("id,title\n")
    with pytest.raises(DataError, match="found the columns id, title, expected item and title"):
        command(small_export, histories, tmp_path / "b.csv", "--titles", str(tmp_path / "titles.csv"))


def test_a_job_that_was_cut_off_goes_on(
    small_export: Path, histories: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(output, "PART_HISTORIES", 8)
    whole, out = tmp_path / "whole.parquet", tmp_path / "top.parquet"
    command(small_export, histories, whole)
    expected, seen = capsys.readouterr().out.replace("whole", "top"), []
    numbers = Recommender.numbers

    def cut(self: Recommender, history: list, place: str, *, strict: bool) -> list[int]:
        seen.append(place)
        if len(seen) == 22:
            raise KeyboardInterrupt
        return numbers(self, history, place, strict=strict)

    monkeypatch.setattr(Recommender, "numbers", cut)
    with pytest.raises(KeyboardInterrupt):
        command(small_export, histories, out)
    assert not out.exists()
    with pytest.raises(UserError, match=r"\.top\.parquet\.unfinished has parts of a job with other"):
        command(small_export, histories, out, "--top", "5")
    seen.clear()
    monkeypatch.setattr(Recommender, "numbers", lambda *a, **k: seen.append(a[2]) or numbers(*a, **k))
    capsys.readouterr()
    command(small_export, histories, out)
    written = capsys.readouterr()
    assert written.err == "continuing after 16 histories\n" and written.out == expected
    assert seen == [f"{histories}:{line}" for line in range(17, 31)]
    assert pyarrow.parquet.read_table(out).equals(pyarrow.parquet.read_table(whole))


def test_a_file_that_another_process_writes(small_export: Path, histories: Path, tmp_path: Path) -> None:
    out = tmp_path / "top.csv"
    with (
        FileLock(tmp_path / ".top.csv.lock"),
        pytest.raises(UserError, match="top.csv is being written by another process"),
    ):
        command(small_export, histories, out)
    command(small_export, histories, out)


def test_a_folder_that_cannot_be_written(small_export: Path, histories: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out .*/file/top.csv cannot be written: "):
        command(small_export, histories, tmp_path / "file" / "top.csv")


def test_unknown_ids_with_strict(small_export: Path, histories: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"histories\.jsonl:4: the model knows no video 'gone'$"):
        command(small_export, histories, tmp_path / "top.csv", "--strict")
    assert not (tmp_path / "top.csv").exists()


def test_no_histories_at_all(small_export: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    command(small_export, tmp_path / "none.jsonl", tmp_path / "top.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "top.parquet").column_names == [
        "user",
        "rank",
        "item",
        "score",
    ]


def test_what_is_refused(small_export: Path, histories: Path, tmp_path: Path) -> None:
    out = tmp_path / "top.parquet"
    for more, fault in (
        (["--top", "41"], "--top 41: expected 1 to 40, the videos of the model"),
        (["--users", "u.txt"], "leave it out with --histories"),
        (["--allow", "nothing.txt"], "--allow nothing.txt cannot be read: No such file"),
        (["--titles", "nothing.csv"], "--titles nothing.csv: no such file"),
    ):
        with pytest.raises(UserError, match=fault):
            command(small_export, histories, out, *more)
    with pytest.raises(UserError, match="expected a name that ends in .parquet, .csv, .jsonl, or -"):
        command(small_export, histories, tmp_path / "top.txt")
    with pytest.raises(UserError, match="is an export, which has no users: give --histories FILE"):
        recommend.main([str(small_export), "--out", str(out)])
    out.touch()
    with pytest.raises(UserError, match="exists already"):
        command(small_export, histories, out)
