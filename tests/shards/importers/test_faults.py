"""Bad input to the importers: exit 2 and one line with file, line or row, column, found and expected."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import Index
from shards.__main__ import main

CSV = "user_id,item_id,timestamp\n"


def says(capsys, tmp_path, arguments, *parts):
    before = sorted(tmp_path.iterdir())
    assert main(["import", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], lines[0]
    assert sorted(tmp_path.iterdir()) == before, "something is left behind"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2,3\n1,2\n", [":3: found 2 fields, expected 3"]),
        ("1,2,3\n1,2,3,4\n", [":3: found 4 fields, expected 3"]),
        ("1,2,3\n\n5,6,soon\n", [":4: column timestamp: found 'soon', expected a time in whole numbers"]),
        ("1,2,nan\n", [":2: column timestamp: found 'nan'"]),
        ("1,2,99999999999999999999\n", [":2: column timestamp: found '9999"]),
        ("1,2,3\n,2,3\n", [":3: column user_id: found '', expected an id"]),
        ('1,2,3\n1,"",3\n', [":3: column item_id: found '', expected an id"]),
        ('1,2,3\n"a\nb",2,3\n1,,3\n', [":5: column item_id"]),
        ('1,2,3\n1,"2,3\n', ["log.csv"]),
        ("", ["found 0 events, expected at least one"]),
        ("1,2,2022-01-01\n1,2,7\n", [":3: column timestamp: found '7', expected a time such as 2022"]),
    ],
)
def test_malformed_rows(tmp_path, capsys, text, parts):
    log = tmp_path / "log.csv"
    log.write_text(CSV + text)
    says(capsys, tmp_path, ["table", log], str(log), *parts)
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress((CSV + text).encode()))
    says(capsys, tmp_path, ["table", packed], "log.csv.gz", *[p for p in parts if p != "log.csv"])


def test_malformed_rows_of_each_importer(tmp_path, capsys):
    def log(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    pairs = log("pairs.tsv", "1\t2 3\n2\t\n")
    says(capsys, tmp_path, ["microlens", pairs], "pairs.tsv:2: user 2: found an empty sequence")
    pairs = log("pairs.tsv", "1\t2 3\n2\t4  5\n")
    says(capsys, tmp_path, ["microlens", pairs], "pairs.tsv:2: user 2: found two spaces")
    pairs = log("pairs.tsv", "1\t2 3\n2 4 5\n")
    says(capsys, tmp_path, ["microlens", pairs], "pairs.tsv:2: found '2 4 5", "expected user<TAB>item item")
    csv = log("pairs.csv", "user,item,timestamp\n1,2,x\n")
    says(capsys, tmp_path, ["microlens", csv], "pairs.csv:2: column timestamp: found 'x'")
    csv = log("sv.csv", "user_id,pid,exposed_time,effective_view\n1,2,3,1\n1,2,3,maybe\n")
    says(
        capsys,
        tmp_path,
        ["shortvideo", csv],
        "sv.csv:3: column effective_view: found 'maybe', expected 1 or 0",
    )
    csv = log("kr.csv", "user_id,video_id,time_ms,is_click\n1,2,3,1\n1,2,3,2\n")
    says(capsys, tmp_path, ["kuairand", csv], "kr.csv:3: column is_click: found '2', expected 1 or 0")
    inter = log("a.inter", "user_id:token\titem_id:token\trating:float\n1\t2\tgood\n")
    says(
        capsys,
        tmp_path,
        ["recbole", inter, "--min-rating", "3"],
        "a.inter:2: column rating:float: found 'good'",
    )
    inter = log("b.inter", "user_id\titem_id\n1\t2\n")
    says(capsys, tmp_path, ["recbole", inter], "b.inter:1", "'user_id'", "expected a typed header")


def test_missing_columns_name_the_nearest(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("userid,item_id,timestamp,is_lik\n1,2,3,0\n")
    says(capsys, tmp_path, ["table", log], "no column 'user_id'; nearest: 'userid'")
    arguments = ["table", log, "--columns", "user=userid,item=item_id,tiem=timestamp"]
    says(capsys, tmp_path, arguments, "'tiem=timestamp'", "nearest: ", "'time'")
    says(capsys, tmp_path, ["table", log, "--columns", "user=userid"], "item=.. is missing")
    log.write_text("user_id,video_id,time_ms,is_click,label\n1,2,3,0,1\n")
    says(capsys, tmp_path, ["kuairand", log, "--signal", "like"], "no column 'is_like'; nearest: 'is_click'")


def test_parquet_faults_name_the_row(tmp_path, capsys):
    log = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": [1, None], "item_id": [1, 2], "timestamp": [1, 2]}), log)
    says(capsys, tmp_path, ["table", log], "log.parquet: row 2, column user_id: found None, expected an id")
    log.write_bytes(b"PAR1 no")
    says(capsys, tmp_path, ["table", log], "log.parquet: not readable as Parquet")


def test_empty_and_absent_sources(tmp_path, capsys):
    says(capsys, tmp_path, ["table", tmp_path / "no.csv"], "no.csv: no such file")
    says(capsys, tmp_path, ["table", tmp_path], "a folder, expected a file")
    (tmp_path / "empty.csv").write_text("")
    says(capsys, tmp_path, ["table", tmp_path / "empty.csv"], "empty.csv: empty, expected a log")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((CSV + "1,2,3\n" * 999).encode())[:-20])
    says(capsys, tmp_path, ["table", tmp_path / "cut.csv.gz"], "cut.csv.gz")


def test_logs_of_which_nothing_is_left(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("user_id,video_id,time_ms,is_click\n1,2,3,0\n")
    says(capsys, tmp_path, ["kuairand", log], "found 1 events, not one of them positive")
    log.write_text(CSV + "1,2,3\n")
    says(capsys, tmp_path, ["table", log, "--k-core", "2"], "no user is left after k-core 2")


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("leave-two-out", ["found 'leave-two-out'", "nearest: 'leave-one-out'"]),
        ("time", ["expected leave-one-out, time:DATE"]),
        ("time:1,2,3", ["found 'time:1,2,3'"]),
        ("time:someday", ["found 'someday', expected a date such as"]),
        ("time:400", ["test from 400, expected 1 < validation <= test <= 9"]),
        ("time:2", ["expected 1 < validation"]),
        ("given", ["needs a table with a split column"]),
    ],
)
def test_splits_that_do_not_fit(tmp_path, capsys, split, parts):
    (tmp_path / "log.csv").write_text(CSV + "1,2,1\n1,3,5\n1,4,9\n")
    says(capsys, tmp_path, ["table", tmp_path / "log.csv", "--split", split], *parts)


def test_time_split_needs_times(tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("1\t2 3 4\n")
    says(
        capsys,
        tmp_path,
        ["microlens", tmp_path / "pairs.tsv", "--split", "time:4"],
        "the source has no times",
    )


def test_a_given_split_that_goes_backwards(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("user,item,time,split\na,1,1,train\nb,1,1,train\nb,2,2,test\nb,3,3,valid\n")
    arguments = ["table", log, "--columns", "user=user,item=item,time=time,split=split", "--split", "given"]
    says(capsys, tmp_path, arguments, "user b: found valid after test, expected train, valid, test")
    log.write_text("user,item,time,split\na,1,1,training\n")
    says(capsys, tmp_path, arguments, ":2: column split: found 'training', expected train, valid or test")


def test_existing_output_is_kept(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(CSV + "1,2,3\n")
    (tmp_path / "out").mkdir()
    says(capsys, tmp_path, ["table", tmp_path / "log.csv"], "out: exists already")


def test_too_little_memory_is_said(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(CSV + "1,2,3\n" * 50_000)
    says(capsys, tmp_path, ["table", tmp_path / "log.csv", "--memory", "1MB"], "--memory: 1MB")
    says(capsys, tmp_path, ["table", tmp_path / "log.csv", "--memory", "plenty"], "--memory: found 'plenty'")


def test_outputs_that_cannot_be_written(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text(CSV + "1,2,3\n")
    for command in (["import", "table", str(log)], ["synth"]):
        assert main([*command, "--out", str(log / "data")]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert log.read_text() == CSV + "1,2,3\n"


def imports(tmp_path, file, text, *options):
    log = tmp_path / file
    if isinstance(text, bytes):
        log.write_bytes(text)
    else:
        log.write_text(text)
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    assert main(["import", *options[:1], str(log), *options[1:], "--out", str(out)]) == 0
    return Index.load(out)


def test_columns_without_a_name(tmp_path):
    """A trailing comma, and the index column that pandas writes."""
    index = imports(tmp_path, "a.csv", "user_id,item_id,timestamp,\n1,2,3,\n1,3,4,\n", "table")
    assert index.interactions == 2
    index = imports(tmp_path, "b.csv", ",user_id,item_id,timestamp\n0,1,2,3\n1,1,3,4\n", "table")
    assert index.interactions == 2


def test_columns_that_differ_only_in_case(tmp_path):
    options = ["table", "--columns", "user=id,item=ID,time=Id"]
    index = imports(tmp_path, "a.csv", "id,ID,Id\n1,7,3\n1,8,4\n", *options)
    assert index.user_ids().tolist() == [1] and index.item_ids().tolist() == [7, 8]
    table = pa.table({"id": [1, 1], "ID": [7, 8], "Id": [3, 4]})
    pq.write_table(table, tmp_path / "b.parquet")
    index = imports(tmp_path, "b.parquet", (tmp_path / "b.parquet").read_bytes(), *options)
    assert index.user_ids().tolist() == [1] and index.item_ids().tolist() == [7, 8]


def test_a_column_that_is_there_twice(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,item_id,timestamp\n1,2,3,4\n")
    says(capsys, tmp_path, ["table", log], "log.csv: the column 'item_id' is there 2 times, expected once")
    inter = tmp_path / "log.inter"
    inter.write_text("user_id:token\titem_id:token\titem_id:float\n1\t2\t3\n")
    says(capsys, tmp_path, ["recbole", inter], "log.inter:1: the column 'item_id' is there 2 times")
    index = imports(tmp_path, "other.csv", "user_id,item_id,x,x,timestamp\n1,2,3,4,5\n", "table")
    assert index.interactions == 1


def test_damaged_files(tmp_path, capsys):
    packed = bytearray(gzip.compress((CSV + "".join(f"1,{i},{i}\n" for i in range(5000))).encode()))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "log.csv.gz").write_bytes(packed)
    says(capsys, tmp_path, ["table", tmp_path / "log.csv.gz"], "log.csv.gz")
    packed[20] ^= 0xFF
    (tmp_path / "log.csv.gz").write_bytes(packed)
    says(capsys, tmp_path, ["table", tmp_path / "log.csv.gz"], "log.csv.gz")
    log = tmp_path / "log.parquet"
    ids = list(range(3000))
    pq.write_table(pa.table({"user_id": ids, "item_id": ids, "timestamp": ids}), log, compression="gzip")
    content = bytearray(log.read_bytes())
    content[40:400] = bytes(360)
    log.write_bytes(content)
    says(capsys, tmp_path, ["table", log], "log.parquet: ")


def test_long_lines(tmp_path, capsys, monkeypatch):
    long = "x" * 200_000
    index = imports(tmp_path, "a.csv", f"user_id,item_id,timestamp,text\n1,2,3,{long}\n", "table")
    assert index.interactions == 1
    log = tmp_path / "log.csv"
    log.write_text(f"user_id,item_id,timestamp,text\n1,2,3,{long}\n1,2,x,\n")
    says(capsys, tmp_path, ["table", log], "log.csv:3: column timestamp: found 'x'")
    index = imports(tmp_path, "b.csv", f"user_id,item_id,timestamp,{long}\n1,2,3,4\n", "table")
    assert index.interactions == 1
    monkeypatch.setattr("shards.importers.source.LONGEST_LINE", 1 << 10)
    says(capsys, tmp_path, ["table", log], "log.csv", "1024")
    log.write_text(f"user_id,item_id,timestamp,{long}\n1,2,3,4\n")
    says(capsys, tmp_path, ["table", log], "log.csv:1: found a line of more than 1024 characters")
