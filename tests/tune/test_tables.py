"""Tables and figures of made-up ranks, against means and parts that are counted by hand."""

import csv
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import UserError
from trainer.evaluation.ranks import Facts, Ranks
from tune import figures
from tune.designs import DESIGNS
from tune.evidence import STILL_IMPROVING, Evidence, Training
from tune.statistics import Bootstrap, holm
from tune.study import Study, curve_rows, warnings, write
from tune.tables import as_markdown, part_rows, summary_rows

USERS = 200
COUNT = np.arange(USERS) // 2  # 0, 0, 1, 1, ...: two targets without training, none above 99
HISTORY = np.arange(USERS) % 12 + 1


def made_up(rng, above=0, users=USERS, fingerprint="abc"):
    """Ranks without ties, by `above` places worse."""
    return Ranks(
        user=pa.chunked_array([pa.array(range(users))]),
        above=(rng.integers(0, 30, users) + above).astype(np.int32),
        equal=np.zeros(users, np.int32),
        history=HISTORY[:users].astype(np.int32),
        count=COUNT[:users],
        facts=Facts(fingerprint, "test", 1, True, 0),
    )


def evidence_of(name, seeds=3, quick=False, leave_out=()):
    rng = np.random.default_rng(1)
    cells = DESIGNS[name](quick)
    evidence = Evidence({cell: list(range(seeds)) for cell in cells})
    for number, cell in enumerate(cells):
        if number in leave_out:
            continue
        for seed in range(seeds):
            evidence.add_ranks(cell, seed, made_up(rng, above=2 * number % 7))
            if cell.is_trained:
                valid = {"valid hr@10": 0.2, "valid ndcg@10": 0.1 + seed / 100}
                evidence.valid.setdefault(cell, {})[seed] = valid
                training = Training([(1.0, 0.05), (2.0, 0.1)], STILL_IMPROVING if seed else "schedule ended")
                evidence.trainings.setdefault(cell, {})[seed] = training
    return evidence


def ndcg(ranks, chosen=slice(None)):
    place = ranks.above[chosen] + 1
    return np.where(place <= 10, 1 / np.log2(place + 1), 0)


def test_rows_are_means_with_intervals_and_paired_differences():
    evidence = evidence_of("ablation")
    rows = {row["row"]: row for row in summary_rows("ablation", "world", evidence)}
    full, *others = evidence.wanted
    for cell in (full, *others):
        row, own = rows[cell.row], [ndcg(ranks).mean() for ranks in evidence.ranks[cell].values()]
        assert (row["seeds"], row["missing"], row["users"]) == (3, 0, USERS)
        assert row["test ndcg@10"] == pytest.approx(np.mean(own))
        assert row["test ndcg@10 spread"] == pytest.approx(np.std(own, ddof=1))
        assert row["test ndcg@10 low"] < np.mean(own) < row["test ndcg@10 high"]
        hits = np.mean([(ranks.above < 10).mean() for ranks in evidence.ranks[cell].values()])
        assert row["test hr@10"] == pytest.approx(hits)
    for cell in others:
        row = rows[cell.row]
        assert row["difference"] == pytest.approx(row["test ndcg@10"] - rows["full"]["test ndcg@10"])
        assert row["difference low"] < row["difference"] < row["difference high"]
    assert rows["full"]["difference"] == "" and rows["full"]["valid ndcg@10"] == pytest.approx(0.11)
    assert rows["full"]["ending"] == "2 still improving, 1 schedule ended"
    assert rows["late fusion: IDs + content"]["ending"] == ""


def test_only_primary_comparisons_have_a_p_value_and_it_is_holms():
    evidence = evidence_of("ablation")
    rows = {row["row"]: row for row in summary_rows("ablation", "world", evidence)}
    assert {name for name, row in rows.items() if row["p"] != ""} == {"w/o TCD", "w/o NPD"}
    cells = {cell.row: cell for cell in evidence.wanted}
    gains = {
        (name, seed): ndcg(evidence.ranks[cells[name]][seed])
        for name in ("full", "w/o TCD", "w/o NPD")
        for seed in range(3)
    }
    raw = [
        Bootstrap(gains, draws=20_000).difference([((name, s), ("full", s)) for s in range(3)]).p
        for name in ("w/o TCD", "w/o NPD")
    ]
    adjusted = [rows[name]["p"] for name in ("w/o TCD", "w/o NPD")]
    assert adjusted == pytest.approx(holm(raw), abs=0.05)
    for other in ("robustness", "universality"):
        assert all(row["p"] == "" for row in summary_rows(other, "world", evidence_of(other)))


def test_parts_of_the_users():
    evidence = evidence_of("ablation", quick=True)
    full, without = list(evidence.wanted)[:2]
    rows = part_rows("ablation", "world", evidence, "popularity")
    assert len(rows) == 7 * 4  # no target has 100 events
    sizes = {row["popularity"]: row["users"] for row in rows}
    assert sizes == {"0": 2, "1-4": 8, "5-19": 30, "20-99": 160}
    chosen = (COUNT >= 5) & (COUNT <= 19)
    expected = [
        np.mean([ndcg(r, chosen).mean() for r in evidence.ranks[c].values()]) for c in (full, without)
    ]
    row = next(row for row in rows if (row["popularity"], row["row"]) == ("5-19", "w/o TCD"))
    assert row["test ndcg@10"] == pytest.approx(expected[1])
    assert row["difference"] == pytest.approx(expected[1] - expected[0])
    by_history = {row["history"]: row["users"] for row in part_rows("ablation", "world", evidence, "history")}
    assert by_history == {
        name: sum(low <= items <= high for items in HISTORY)
        for name, low, high in (("1-4", 1, 4), ("5-9", 5, 9), ("10-19", 10, 19))
    }


def test_what_is_missing_is_said():
    evidence = evidence_of("ablation", leave_out=[1])
    partly = list(evidence.wanted)[2]
    del evidence.ranks[partly][1]
    assert evidence.missing == 4
    rows = summary_rows("ablation", "world", evidence)
    assert rows[1]["seeds"] == 0 and rows[1]["test ndcg@10"] == rows[1]["difference"] == rows[1]["p"] == ""
    assert (rows[2]["seeds"], rows[2]["missing"]) == (2, 1)
    assert rows[2]["p"] != ""
    table = as_markdown(rows)
    assert table.startswith("**Incomplete**: 4 evaluations are missing.")
    assert "| w/o TCD |  | 0 of 3 | - | - | - | - |" in table and "| w/o NPD |  | 2 of 3 |" in table
    empty = Evidence(evidence.wanted)
    assert all(row["seeds"] == 0 for row in summary_rows("ablation", "world", empty))
    assert part_rows("ablation", "world", empty, "history") == []


def test_differences_are_over_the_seeds_that_both_have():
    evidence = evidence_of("ablation", quick=True)
    full, without = list(evidence.wanted)[:2]
    del evidence.ranks[full][0], evidence.ranks[without][2]
    row = summary_rows("ablation", "world", evidence)[1]
    expected = ndcg(evidence.ranks[without][1]).mean() - ndcg(evidence.ranks[full][1]).mean()
    assert row["difference"] == pytest.approx(expected)
    assert row["p"] == ""  # of one seed


def test_ranks_of_other_users_are_refused():
    evidence, rng = evidence_of("ablation", quick=True), np.random.default_rng(0)
    cell = next(iter(evidence.wanted))
    for other in (made_up(rng, users=199), made_up(rng, fingerprint="def")):
        with pytest.raises(UserError, match="ranks other users"):
            evidence.add_ranks(cell, 9, other)


@pytest.mark.parametrize("name", DESIGNS)
def test_figures_and_tables_are_written(name, tmp_path):
    quick = name == "sensitivity"  # else some hundred panels
    found = {
        "some world": evidence_of(name, quick=quick, leave_out=[1]),
        "another": evidence_of(name, quick=quick),
    }
    rows = [row for data, evidence in found.items() for row in summary_rows(name, data, evidence)]
    study = Study(name, tmp_path, 3, False, {}, 0, 0, None)
    write(study, name, rows, figures.FIGURES[name])
    text = (tmp_path / f"{name}.svg").read_text()
    assert "NDCG@10" in text and "some world" in text and "another" in text
    assert "3 seeds, 200 users of some world and 200 users of another; incomplete" in text
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with open(tmp_path / f"{name}.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows) == sum(len(e.wanted) for e in found.values())
    write(study, "curves", curve_rows(found), figures.curves)
    assert "Validation NDCG@10 over epochs" in (tmp_path / "curves.svg").read_text()
    if name != "sensitivity":
        parts = [row for data, e in found.items() for row in part_rows(name, data, e, "history")]
        write(study, "parts", parts, partial(figures.forest, table="history"))
        text = (tmp_path / "parts.svg").read_text()
        assert "history 10-19" in text and "Difference in test NDCG@10" in text
    nothing = summary_rows(name, "some world", Evidence(found["another"].wanted))
    write(study, "nothing", nothing, figures.FIGURES[name])
    assert "no finished run" in (tmp_path / "nothing.svg").read_text()


def test_runs_that_might_go_on_are_named():
    found = {"world": evidence_of("ablation", quick=True)}
    lines = list(warnings(found))
    assert lines[0] == "world, full: 2 of 3 runs were best in the last epoch: raise train.max_epochs"
    assert len(lines) == 5
    rows = curve_rows(found)
    assert len(rows) == 5 * 3 * 2 and not any(math.isnan(row["epoch"]) for row in rows)
    assert rows[1] == {
        "data": "world",
        "variant": "full",
        "seed": 0,
        "epoch": 2.0,
        "valid ndcg@10": 0.1,
        "ending": "schedule ended",
    }
