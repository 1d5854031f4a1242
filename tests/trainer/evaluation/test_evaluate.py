"""Evaluation against a brute-force ranking in NumPy, on one rank and on two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer import runs
from trainer.evaluation import command, evaluate


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
        batch = inputs.on_device(batch)
        with torch.no_grad():
            scores, items = model(batch, task="top", k=inputs.index.videos, mask_history=False)
        table = np.empty_like(scores.numpy())
        np.put_along_axis(table, items.numpy() - 1, scores.numpy(), axis=1)
        for row, user in enumerate(batch["sample_id"].tolist()):
            if batch["weight"][row]:
                hidden = set(sequences[user][:-1]) if mask_history else set()
                rows.append(brute_force(table[row], int(batch["target"][row]), hidden))
    settings = replace(config.eval, mask_history=mask_history, chunk=37)
    stream = inputs.eval_stream("test", settings)
    actual = evaluate.evaluate(model, stream, inputs, settings, sampler_steps=0)
    assert actual.pop("users") == len(rows) == 398
    assert actual == pytest.approx(mean(rows), abs=1e-9)


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
    actual = evaluate.evaluate_popularity(counts, stream, inputs.index.videos, mask_history=mask_history)
    assert actual.pop("users") == len(rows)
    assert actual == pytest.approx(mean(rows), abs=1e-12)


def test_command_finds_what_the_run_found(
    one_rank: dict[str, Path], two_ranks: dict[int, Path], cache: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    for run, split in ((one_rank["bf16"], "valid"), (two_ranks[2], "test"), (two_ranks[3], "test")):
        assert command.main([str(run), "--split", split, "--sampler_steps", "0"]) == 0
        actual, expected = json.loads(capsys.readouterr().out), runs.results(run)[split]
        assert {name: actual[name] for name in expected} == pytest.approx(expected, abs=1e-9)
