"""Evaluation against a brute-force ranking in NumPy, on one rank and on two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from shards.reader import read_sequence_shard
from tests.trainer import runs
from trainer.evaluation import evaluate, recommend, weights
from trainer.errors import UserError


@pytest.fixture(scope="module")
def opened(one_rank: dict[str, Path], cache: Path):
    """(inputs, model, config) of the plain run's best weights."""
    config, loaded = evaluate.open_run(str(one_rank["whole"]), None)
    config.data.cache_dir = str(cache)
    inputs = evaluate.open_inputs(config, loaded, evaluate.single_world())
    model = inputs.build_model(config.seed).eval()
    weights.load_into(model, loaded.state)
    return inputs, model, config


@pytest.fixture(scope="module")
def sequences(opened) -> list[list[int]]:
    """Every user's whole sequence."""
    inputs, found = opened[0], []
    for entry in inputs.index.sequence_shards:
        block = read_sequence_shard(inputs.index.local(entry), entry, inputs.index.videos)
        found += [block.item[a:b].tolist() for a, b in zip(block.starts[:-1], block.starts[1:], strict=True)]
    return found


def brute_force(scores: np.ndarray, target: int, hidden: set[int]) -> dict[str, float]:
    """One user's metrics, the mean over every place that ties leave open; scores [I], ids from 1."""
    rivals = [
        score for video, score in enumerate(scores, 1) if video != target and video not in hidden - {target}
    ]
    above, equal = sum(s > scores[target - 1] for s in rivals), sum(s == scores[target - 1] for s in rivals)
    ranks = range(above + 1, above + equal + 2)
    gains = {f"hr@{k}": [float(r <= k) for r in ranks] for k in (5, 10, 20)}
    gains |= {f"ndcg@{k}": [(r <= k) / np.log2(r + 1) for r in ranks] for k in (5, 10, 20)}
    gains["mrr"] = [1 / r for r in ranks]
    return {name: float(np.mean(gain)) for name, gain in gains.items()}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize("mask_history", [True, False])
def test_ranking_is_that_of_brute_force(opened, sequences, mask_history: bool) -> None:
    inputs, model, config = opened
    rows = []
    for batch in inputs.eval_stream("test", config.eval):
        batch = inputs.prepare(batch, config.seed)
        with torch.no_grad():
            scores, items = model(batch, task="top", k=inputs.index.videos, mask_history=False)
        table = np.empty_like(scores.numpy())
        np.put_along_axis(table, items.numpy() - 1, scores.numpy(), axis=1)
        for row, user in enumerate(batch["sample_id"].tolist()):
            if batch["weight"][row]:
                hidden = set(sequences[user][:-1]) if mask_history else set()
                rows.append(brute_force(table[row], int(batch["target"][row]), hidden))
    asked = replace(config, eval=replace(config.eval, mask_history=mask_history, chunk=37))
    found = evaluate.evaluate(model, inputs.eval_stream("test", config.eval), inputs, asked, sampler_steps=0)
    assert found.pop("users") == len(rows) == 398
    assert found == pytest.approx(mean(rows), abs=1e-9)


@pytest.mark.parametrize("mask_history", [True, False])
def test_popularity_is_that_of_brute_force(opened, sequences, mask_history: bool) -> None:
    inputs, _, config = opened
    counts = inputs.train_counts()
    rows = [
        brute_force(counts[1:].numpy(), items[-1], set(items[:-1]) if mask_history else set())
        for items in sequences
        if len(items) >= 3
    ]
    stream = inputs.eval_stream("test", config.eval)
    found = evaluate.evaluate_popularity(counts, stream, inputs.index.videos, mask_history=mask_history)
    assert found.pop("users") == len(rows)
    assert found == pytest.approx(mean(rows), abs=1e-12)


def test_command_finds_what_the_run_found(
    one_rank: dict[str, Path], two_ranks: dict[int, Path], cache: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    for run, split in ((one_rank["bf16"], "valid"), (two_ranks[2], "test"), (two_ranks[3], "test")):
        assert evaluate.main([str(run), "--split", split, "--sampler_steps", "0"]) == 0
        found, expected = json.loads(capsys.readouterr().out), runs.results(run)[split]
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_recommendations_are_the_best_unseen(
    opened, sequences, one_rank, tmp_path: Path, cache: Path, monkeypatch
) -> None:
    inputs, model, config = opened
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    users, items = inputs.index.user_ids(), inputs.index.item_ids()
    wanted = tmp_path / "users.txt"
    wanted.write_text(f"{users[7]}\n{users[2]}\n")
    out = tmp_path / "top.parquet"
    assert (
        recommend.main([str(one_rank["whole"]), "--out", str(out), "--top", "6", "--users", str(wanted)]) == 0
    )
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert {row["user"] for row in rows} == {users[2], users[7]} and len(rows) == 12
    for user in (2, 7):
        best = [row for row in rows if row["user"] == users[user]]
        assert [row["rank"] for row in best] == [1, 2, 3, 4, 5, 6]
        assert sorted((row["score"] for row in best), reverse=True) == [row["score"] for row in best]
        seen = {items[item - 1] for item in sequences[user]}
        assert not seen & {row["item"] for row in best}
    with pytest.raises(UserError, match="exists already"):
        recommend.main([str(one_rank["whole"]), "--out", str(out)])
    wanted.write_text("nobody\n")
    with pytest.raises(UserError, match="no user 'nobody'"):
        recommend.main([str(one_rank["whole"]), "--out", str(tmp_path / "a.csv"), "--users", str(wanted)])
