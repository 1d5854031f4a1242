"""How training ended, from the files of a run."""

import json

import pytest

from tune.evidence import read_training


def make_run(folder, scores, best, stopped=None, decay="constant"):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"train: {{decay: {decay}, max_epochs: {len(scores)}}}\n")
    records = [{"step": 10, "loss": 1.0}]
    for epoch, score in enumerate(scores, 1):
        records.append({"step": 10 * epoch, "epoch": epoch, "split": "valid", "ndcg@10": score})
    records.append({"step": 10 * best, "epoch": best, "split": "test", "ndcg@10": 0.9})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    results = {"stopped": stopped, "best_step": 10 * best, "epochs": len(scores), "steps": 10 * len(scores)}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize(
    ("best", "more", "ending"),
    [
        (3, {}, "still improving"),
        (3, {"decay": "linear"}, "schedule ended"),
        (3, {"decay": "cosine"}, "schedule ended"),
        (2, {}, "past its best"),
        (1, {"stopped": "2 evaluations without a better validation ndcg@10"}, "stopped early"),
    ],
)
def test_how_training_ended(tmp_path, best, more, ending):
    training = read_training(make_run(tmp_path / "run", [0.1, 0.2, 0.3], best, **more))
    assert training.ending == ending
    assert training.curve == [(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)]
