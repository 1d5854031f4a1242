"""The table of a sweep: its order, means over seeds, and what the best is told apart from."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.evaluation.ranks import Facts
from tune.ranking import SHOWN, as_text, ranked, summary

USERS, METRIC = 2000, "ndcg@10"


def finished(out, number, seed, above):
    """A row of results.csv of a finished run, whose targets have `above` videos before them."""
    run = out / "runs" / f"{number}-{seed}"
    run.mkdir(parents=True)
    columns = {"user": np.arange(USERS), "target": np.arange(USERS)}
    columns |= dict.fromkeys(("above", "equal", "history"), np.zeros(USERS, np.int32))
    columns |= {"above": above.astype(np.int32), "count": np.zeros(USERS, np.int64)}
    metadata = {name: json.dumps(value) for name, value in asdict(Facts("abc", "valid", 1, True, 0)).items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), run / "ranks-valid.parquet")
    return row(number, seed, ndcg(above), run=f"runs/{number}-{seed}")


def row(number, seed, score, status="finished", **more):
    start = {"id": f"{number}-{seed}", "seed": seed, "status": status, "train.lr": number, "preset": "study"}
    scores = {f"valid {METRIC}": score, "valid mrr": score, f"test {METRIC}": score}
    return {**start, **scores, "epochs": 3, "run": f"runs/{number}-{seed}", "cause": "", **more}


def ndcg(above):
    return float(np.where(above < 10, 1 / np.log2(above + 2.0), 0).mean())


def drawn(seed):
    return np.random.default_rng(seed).integers(0, 40, USERS)


def test_means_over_seeds_are_in_the_order_of_validation(tmp_path):
    rows = [row(number, seed, (number + seed) / 10) for number in (1, 3, 2) for seed in (0, 1)]
    ranking = ranked(rows, METRIC, "max", tmp_path)
    assert [(line["train.lr"], line["seeds"]) for line in ranking] == [(3, 2), (2, 2), (1, 2)]
    assert [line[f"valid {METRIC}"] for line in ranking] == pytest.approx([0.35, 0.25, 0.15])
    assert "preset" not in ranking[0]  # the same everywhere
    reversed_order = ranked(rows, METRIC, "min", tmp_path)
    assert [line["train.lr"] for line in reversed_order] == [1, 2, 3]


def test_intervals_tell_apart_what_differs(tmp_path):
    """A point that is worse for every tenth user is told apart from the best, one that swaps two is not."""
    above = drawn(0)
    worse, level = above.copy(), above.copy()
    worse[::10] = 39
    hit, miss = np.flatnonzero(above == 4)[:2], np.flatnonzero(above == 5)[:2]
    level[hit], level[miss[:1]] = 5, 4
    rows = [finished(tmp_path, number, 0, ranks) for number, ranks in ((1, worse), (2, above), (3, level))]
    best, second, third = ranked(rows, METRIC, "max", tmp_path)
    assert (best["train.lr"], second["train.lr"], third["train.lr"]) == (2, 3, 1)
    for line, ranks in ((best, above), (second, level), (third, worse)):
        assert line[f"valid {METRIC}"] == pytest.approx(ndcg(ranks))
        assert line[f"valid {METRIC} low"] < ndcg(ranks) < line[f"valid {METRIC} high"]
    assert best["difference"] == best["difference low"] == ""
    assert second["difference"] == pytest.approx(ndcg(level) - ndcg(above))
    assert second["difference low"] < 0 <= second["difference high"]
    assert third["difference"] == pytest.approx(ndcg(worse) - ndcg(above))
    assert third["difference low"] < third["difference high"] < 0


def test_differences_are_of_the_same_seeds(tmp_path):
    """Seeds differ a lot, the two points in each of them little: paired, they are told apart."""
    rows = []
    for seed in range(3):
        above = np.where(np.arange(USERS) < 400 * seed, 39, drawn(seed))
        worse = above.copy()
        worse[above < 3] += 2
        rows += [finished(tmp_path, number, seed, ranks) for number, ranks in ((1, worse), (2, above))]
    best, second = ranked(rows, METRIC, "max", tmp_path)
    assert (best["train.lr"], best["seeds"], second["seeds"]) == (2, 3, 3)
    assert second["difference high"] < 0
    assert best[f"valid {METRIC} low"] < second[f"valid {METRIC}"]  # unpaired, they are not


def test_points_without_ranks_have_no_interval(tmp_path):
    rows = [
        finished(tmp_path, 1, 0, drawn(0)),
        row(2, 0, 0.001, "stopped"),
        row(3, 0, "", "failed", cause="nan"),
    ]
    first, second = ranked(rows, METRIC, "max", tmp_path)
    assert second["train.lr"] == 2 and second["difference"] == second[f"valid {METRIC} low"] == ""
    assert summary(rows) == "1 finished, 1 stopped, 1 failed\nfailed: 3-0: nan"
    assert ranked(rows[2:], METRIC, "max", tmp_path) == []


def test_only_the_first_points_are_compared(tmp_path):
    rows = [finished(tmp_path, number, 0, drawn(0) + number) for number in range(SHOWN + 2)]
    ranking = ranked(rows, METRIC, "max", tmp_path)
    assert len(ranking) == SHOWN + 2
    assert [line["difference"] != "" for line in ranking] == [False, *[True] * (SHOWN - 1), False, False]
    assert len(as_text(ranking, METRIC).splitlines()) == SHOWN + 1


def test_the_text_has_a_difference_with_its_interval(tmp_path):
    rows = [finished(tmp_path, number, 0, drawn(0) + number) for number in (0, 1)]
    head, first, second = as_text(ranked(rows, METRIC, "max", tmp_path), METRIC).splitlines()
    assert head.split() == ["train.lr", "seeds", "valid", METRIC, "difference", "test", METRIC]
    assert first.split() == ["0", "1", f"{ndcg(drawn(0)):.4f}", "-", f"{ndcg(drawn(0)):.4f}"]
    assert second.split()[3].startswith("-0.") and second.split()[4].startswith("[-0.")
