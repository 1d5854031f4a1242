"""What a sweep keeps on disk, and what it refuses to continue."""

import json

import pytest

from trainer.errors import UserError
from tune.ledger import Ledger, Outcome
from tune.space import Point

POINTS = [Point({"model.tcd.steps": steps}, seed) for steps in (2, 5) for seed in (0, 1)]


def open_ledger(tmp_path, points=POINTS, fingerprint="abc", **options):
    return Ledger(tmp_path / "out", points, tmp_path / "data", fingerprint, **{"resume": False, **options})


def finish(ledger, point, score):
    run = ledger.run(point)
    run.mkdir(parents=True)
    metrics = dict.fromkeys(("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"), score)
    (run / "results.json").write_text(
        json.dumps({"valid": metrics, "test": metrics, "epochs": 3, "steps": 30, "seconds": 1.5})
    )


def test_each_point_is_run_until_it_has_ended(tmp_path):
    ledger = open_ledger(tmp_path)
    assert ledger.pending() == POINTS
    finish(ledger, POINTS[0], 0.1)
    Outcome("stopped").write(ledger.outcome_file(POINTS[1].id))
    Outcome("failed", "loss of step 3 is nan").write(ledger.outcome_file(POINTS[2].id))
    again = open_ledger(tmp_path, resume=True)
    assert again.pending() == POINTS[2:]  # one that failed has another chance
    assert [row["status"] for row in again.rows()] == ["finished", "stopped", "failed", "pending"]
    assert again.rows()[2]["cause"] == "loss of step 3 is nan"


def test_a_stopped_run_shows_its_best_evaluation(tmp_path):
    ledger = open_ledger(tmp_path)
    run = ledger.run(POINTS[0])
    run.mkdir(parents=True)
    lines = [
        {"step": step, "epoch": step, "split": "valid", "ndcg@10": score}
        for step, score in ((1, 0.1), (2, 0.3), (3, 0.2))
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4, "epo')
    Outcome("stopped").write(ledger.outcome_file(POINTS[0].id))
    row = ledger.write()[0]
    assert (row["valid ndcg@10"], row["epochs"], row["test ndcg@10"]) == (0.3, 3, "")
    assert (ledger.out / "results.csv").read_text().count("\n") == 1 + len(POINTS)


def test_points_join_those_of_an_earlier_study(tmp_path):
    finish(open_ledger(tmp_path, points=POINTS[:2], grows=True), POINTS[0], 0.1)
    ledger = open_ledger(tmp_path, points=POINTS[1:3], grows=True)
    assert ledger.points == POINTS[:3] and ledger.pending() == POINTS[1:3]
    assert [row["status"] for row in ledger.write()] == ["finished", "pending", "pending"]


def test_what_is_not_continued(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        open_ledger(tmp_path, resume=True)
    open_ledger(tmp_path)
    with pytest.raises(UserError, match="holds a sweep already: continue it with --resume"):
        open_ledger(tmp_path)
    with pytest.raises(UserError, match="the data set has changed since the sweep began"):
        open_ledger(tmp_path, resume=True, fingerprint="def")
    with pytest.raises(UserError, match="was begun with another space"):
        open_ledger(tmp_path, resume=True, points=POINTS[1:])
