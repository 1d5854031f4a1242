"""Every importer on small logs of its own format, and the pipeline against plain Python references."""

import gzip
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import Block, Index
from shards.__main__ import main
from shards.format.index import Counts
from shards.format.reader import read_sequence_shard


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return Index.load(arguments[arguments.index("--out") + 1])


def sequences(index):
    """{original user: [(original item, time), ...]} and {original user: (train_end, valid_end)}."""
    block = Block.concatenate([read_sequence_shard(index, e) for e in index.sequence_shards])
    items, users = list(index.item_ids()), list(index.user_ids())
    events, ends = {}, {}
    for row, (a, b) in enumerate(zip(block.starts[:-1], block.starts[1:], strict=True)):
        names = [items[j - 1] for j in block.item[a:b]]
        events[users[row]] = list(zip(names, block.time[a:b].tolist(), strict=True))
        ends[users[row]] = tuple(block.boundary[row].tolist())
    return events, ends


def write_csv(path, rows, header="user_id,item_id,timestamp"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def random_rows(seed, rows=600, users=40, items=30):
    """(user, item, time) with exact duplicates, equal times and repeats, in no order."""
    rng = random.Random(seed)

    def skewed(most):
        return int(most * rng.random() ** 2)

    log = [(skewed(users) * 7, f"v{skewed(items)}", rng.randrange(50)) for _ in range(rows)]
    return log + rng.choices(log, k=30)


def reference(rows, k=0, least=1, most=0):
    """{user: [(item, time)]}: stable by time, first of exact duplicates, k-core, length limits."""
    log = list(dict.fromkeys(rows))
    while True:
        users, items = Counter(r[0] for r in log), Counter(r[1] for r in log)
        rest = [r for r in log if users[r[0]] >= k and items[r[1]] >= k]
        if len(rest) == len(log):
            break
        log = rest
    events = {}
    for user, item, time in sorted(log, key=lambda row: row[2]):
        events.setdefault(user, []).append((item, time))
    return {user: e[-most:] if most else e for user, e in sorted(events.items()) if len(e) >= least}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limits", [(0, 1, 0), (8, 1, 0), (6, 11, 9)])
def test_pipeline_against_the_reference(tmp_path, seed, limits):
    k, least, most = limits
    rows = random_rows(seed, users=60)
    log = write_csv(tmp_path / "log.csv", rows)
    options = ["--k-core", k, "--min-length", least, "--max-length", most]
    index = run("import", "table", log, "--out", tmp_path / "d", *options)
    expected = reference(rows, k, least, most)
    assert expected, "the case is empty"
    events, _ = sequences(index)
    assert events == expected
    assert list(events) == sorted(expected)
    assert index.item_ids() == sorted({item for e in expected.values() for item, _ in e})
    drops = index.source["drops"]
    assert drops["events_read"] == len(rows)
    assert drops["exact_duplicates"] == len(rows) - len(set(rows))
    lost = sum(drops.get(n, 0) for n in ("k_core_events", "too_short_events", "events_beyond_max_length"))
    assert index.interactions == len(set(rows)) - lost


def test_many_batches_and_shards_are_the_same_data(tmp_path):
    """More users than a block and more events than DuckDB hands over at once are cut between users."""
    rng = np.random.default_rng(0)
    users, item, time = (
        rng.integers(0, 9000, 2500_00),
        rng.integers(0, 99, 2500_00),
        rng.integers(0, 9, 2500_00),
    )
    table = pa.table({"user_id": users, "item_id": item, "timestamp": time})
    pq.write_table(table, tmp_path / "log.parquet")
    index = run("import", "table", tmp_path / "log.parquet", "--out", tmp_path / "d")
    assert len(index.sequence_shards) == 2
    events, _ = sequences(index)
    assert events == reference(list(zip(users.tolist(), item.tolist(), time.tolist(), strict=True)))


def test_same_input_same_bytes(tmp_path):
    log = write_csv(tmp_path / "log.csv", random_rows(1))
    for name in "ab":
        run("import", "table", log, "--k-core", 3, "--out", tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "log.csv"], "scratch is left"


def test_leave_one_out_keeps_short_users_for_training(tmp_path):
    rows = [(user, item, item) for user, length in ((1, 1), (2, 2), (3, 3), (4, 6)) for item in range(length)]
    index = run("import", "table", write_csv(tmp_path / "l.csv", rows), "--out", tmp_path / "d")
    assert sequences(index)[1] == {1: (1, 1), 2: (2, 2), 3: (1, 2), 4: (4, 5)}
    assert index.counts == Counts(train_events=8, valid_users=2, test_users=2, short_users=2)


def test_no_split_trains_on_everything(tmp_path):
    rows = [(user, item, item) for user in (1, 2) for item in range(user * 3)]
    log = write_csv(tmp_path / "l.csv", rows)
    index = run("import", "table", log, "--split", "none", "--out", tmp_path / "d")
    assert sequences(index)[1] == {1: (3, 3), 2: (6, 6)}
    assert index.counts == Counts(train_events=9, valid_users=0, test_users=0, short_users=0)


@pytest.mark.parametrize(("split", "edges"), [("time:40", (30, 40)), ("time:25,42", (25, 42))])
def test_time_split(tmp_path, split, edges):
    rows = random_rows(2, rows=150)
    rows += [(0, "v0", 49), (999, "v1", 45), (999, "v2", 46), (998, "v1", 1), (998, "v2", 46)]
    log = write_csv(tmp_path / "l.csv", rows)
    index = run("import", "table", log, "--split", split, "--out", tmp_path / "d")
    events, ends = sequences(index)
    expected = reference(rows)
    dropped = 0
    for user, e in list(expected.items()):
        if len(e) < 3:  # held-out events of users too short to be evaluated are left out
            expected[user] = [pair for pair in e if pair[1] < edges[0]]
            dropped += len(e) - len(expected[user])
    gone = [user for user, e in expected.items() if not e]
    assert 999 in gone and 998 not in gone
    assert events == {user: e for user, e in expected.items() if e}
    for user, e in events.items():
        assert ends[user] == tuple(sum(time < edge for _, time in e) for edge in edges)
    assert index.source["drops"]["held_out_events_of_short_users"] == dropped
    assert index.source["drops"]["users_without_training_events"] == len(gone)
    assert index.split == {"kind": "time", "valid_from": edges[0], "test_from": edges[1]}


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_dates_are_read_in_the_unit_of_the_log(tmp_path, unit):
    day, first = 86_400, 1_649_548_800  # 2022-04-10
    rows = [(user, item, (first + item * day) * unit) for user in (1, 2) for item in range(10)]
    log = write_csv(tmp_path / "l.csv", rows)
    index = run("import", "table", log, "--split", "time:2022-04-18", "--out", tmp_path / "d")
    assert set(sequences(index)[1].values()) == {(7, 8)}  # the last day and an instant, then a day before
    index = run(
        "import", "table", log, "--split", "time:2022-04-15,2022-04-18 12:00", "--out", tmp_path / "e"
    )
    assert set(sequences(index)[1].values()) == {(5, 9)}


def test_given_split(tmp_path):
    rows = [(1, 5, 1, "train"), (1, 6, 2, "train"), (1, 7, 3, "valid"), (1, 8, 3, "test"), (2, 5, 9, "test")]
    rows += [(2, 6, 4, "valid"), (2, 7, 5, "valid"), (3, 6, 1, "train"), (3, 7, 2, "test"), (4, 5, 5, "test")]
    log = write_csv(tmp_path / "l.csv", rows, "u,i,t,part")
    columns = "user=u,item=i,time=t,split=part"
    index = run("import", "table", log, "--columns", columns, "--split", "given", "--out", tmp_path / "d")
    events, ends = sequences(index)
    assert ends == {1: (2, 3), 2: (0, 2), 3: (1, 1)}
    assert events[2] == [(6, 4), (7, 5), (5, 9)] and events[3] == [(6, 1)]
    assert index.counts == Counts(train_events=3, valid_users=2, test_users=2, short_users=1)


def test_microlens_pairs_without_times_keep_order_and_repeats(tmp_path):
    log = tmp_path / "MicroLens-50k_pairs.tsv"
    log.write_text("10\t7 5 7 9\n2\t5 5\n")
    index = run("import", "microlens", log, "--out", tmp_path / "d")
    assert sequences(index)[0] == {2: [(5, 0)] * 2, 10: [(7, 0), (5, 0), (7, 0), (9, 0)]}
    assert index.source["drops"]["exact_duplicates"] == 0
    assert index.item_ids().tolist() == [5, 7, 9]


def test_microlens_csv_and_preset(tmp_path):
    rows = [
        (user, item + user, 1_600_000_000_000 + item) for user in (1, 2, 3) for item in range(user * 6 - 2)
    ]
    log = write_csv(tmp_path / "MicroLens-100k_pairs.csv", rows[::-1], "user,item,timestamp")
    index = run("import", "microlens", log, "--preset", "microlens", "--out", tmp_path / "d")
    events, _ = sequences(index)
    assert {user: len(e) for user, e in events.items()} == {2: 10, 3: 13}
    assert events[3][0] == (6, 1_600_000_000_003)
    assert index.source["drops"]["too_short_users"] == 1
    assert index.source["drops"]["events_beyond_max_length"] == 3
    kept = run(
        "import", "microlens", log, "--preset", "microlens", "--min-length", 1, "--out", tmp_path / "e"
    )
    assert kept.users == 3


def test_shortvideo(tmp_path):
    header = "user_id,pid,exposed_time,p_date,p_hour,watch_time,cvm_like,effective_view"
    rows = [
        (1, 9, 30, 20230101, 5, 3.5, 0, 1),
        (1, 8, 20, 20230101, 5, 1, 0, 0),
        (1, 7, 10, 20230101, 4, 9, 1, 1),
    ]
    log = write_csv(tmp_path / "interaciton_filtered.csv", rows, header)
    positive = run("import", "shortvideo", log, "--out", tmp_path / "d")
    assert sequences(positive)[0] == {1: [(7, 10), (9, 30)]}
    assert positive.source["drops"]["events_not_positive"] == 1
    everything = run("import", "shortvideo", log, "--signal", "all", "--out", tmp_path / "e")
    assert sequences(everything)[0] == {1: [(7, 10), (8, 20), (9, 30)]}


@pytest.mark.parametrize(
    ("signal", "items"), [("click", [1, 3]), ("like", [2]), ("long_view", [1, 2]), ("label", [4])]
)
def test_kuairand_signals_in_gzip_with_tabs(tmp_path, signal, items):
    header = "user_id\tvideo_id\tdate\ttime_ms\tis_click\tis_like\tlong_view\tlabel"
    rows = [
        "5\t1\t0\t11\t1\t0\t1\t0",
        "5\t2\t0\t12\t0\t1\t1\t0",
        "5\t3\t0\t13\t1\t0\t0\t0",
        "5\t4\t0\t9\t0\t0\t0\t1",
    ]
    log = tmp_path / "log.tsv.gz"
    log.write_bytes(gzip.compress("\n".join([header, *rows]).encode()))
    index = run("import", "kuairand", log, "--signal", signal, "--out", tmp_path / "d")
    assert [item for item, _ in sequences(index)[0][5]] == items


def test_several_files_are_one_log(tmp_path):
    header = "user_id,video_id,time_ms,is_click"
    parts = [write_csv(tmp_path / f"log_{n}.csv", [(1, n, 5 - n, 1), (1, 9, 7, 1)], header) for n in (1, 2)]
    index = run("import", "kuairand", *parts, "--out", tmp_path / "d")
    assert sequences(index)[0] == {1: [(2, 3), (1, 4), (9, 7)]}
    assert index.source["files"] == ["log_1.csv", "log_2.csv"]


def test_recbole(tmp_path):
    log = tmp_path / "ml.inter"
    lines = ["u1\t07\t5\t30.9", "u1\t12\t2\t10", "u2\t7\t4\t1e1", "u1\t3\t4\t20.2"]
    log.write_text("\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines]))
    index = run("import", "recbole", log, "--out", tmp_path / "d")
    assert sequences(index)[0] == {"u1": [("12", 10), ("3", 20), ("07", 30)], "u2": [("7", 10)]}
    rated = run("import", "recbole", log, "--min-rating", 4, "--out", tmp_path / "e")
    assert sequences(rated)[0] == {"u1": [("3", 20), ("07", 30)], "u2": [("7", 10)]}
    log.write_text("user_id:token\titem_id:token\nu1\tb\nu1\ta\nu1\tb\n")
    untimed = run("import", "recbole", log, "--out", tmp_path / "f")
    assert sequences(untimed)[0] == {"u1": [("b", 0), ("a", 0), ("b", 0)]}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_times_as_dates(tmp_path, kind):
    days = ["2022-04-10 08:59:09", "2022-04-09 08:59:09.250", "2022-04-11"]
    log = tmp_path / f"log.{kind}"
    if kind == "csv":
        write_csv(log, [("a", n, day) for n, day in enumerate(days)], "who,what,when")
    else:
        when = pa.array(days).cast(pa.timestamp("us"))
        pq.write_table(
            pa.table({"who": ["a"] * 3, "what": pa.array([0, 1, 2], pa.int16()), "when": when}), log
        )
    index = run("import", "table", log, "--columns", "user=who,item=what,time=when", "--out", tmp_path / "d")
    expected = [(1, 1_649_494_749_250), (0, 1_649_581_149_000), (2, 1_649_635_200_000)]
    assert sequences(index)[0] == {"a": expected}


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["1", "-5", "900"], "int64"),
        (["01", "5", "900"], "string"),
        (["1", "5", "9223372036854775808"], "string"),
        (["1", "+5", "7"], "string"),
        (["a b", "ä", '"q,""x"'], "string"),
    ],
)
def test_id_types_by_value(tmp_path, ids, kind):
    log = write_csv(tmp_path / "l.csv", [(i, i, n) for n, i in enumerate(ids)])
    index = run("import", "table", log, "--out", tmp_path / "d")
    assert (index.user_id_type, index.item_id_type) == (kind, kind)
    plain = [i.strip('"').replace('""', '"') for i in ids]
    assert list(index.item_ids()) == sorted(map(int, plain) if kind == "int64" else plain)


def test_parquet_ids_keep_their_type(tmp_path):
    table = pa.table({"user_id": ["1", "2"], "item_id": pa.array([5, 6], pa.int32()), "timestamp": [1, 2]})
    pq.write_table(table, tmp_path / "l.parquet")
    index = run("import", "table", tmp_path / "l.parquet", "--out", tmp_path / "d")
    assert index.user_ids() == ["1", "2"] and index.item_ids().tolist() == [5, 6]
