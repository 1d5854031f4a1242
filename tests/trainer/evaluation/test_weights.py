"""Weights of a run: the same from every ZeRO stage, and a warm start by original ids."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec import MealRecConfig
from tests.trainer import runs
from tests.trainer.attack import Attack
from trainer import checkpoint_files
from trainer.errors import UserError
from trainer.evaluation import command, weights


def test_configurations_saved_before_an_option_existed() -> None:
    config = MealRecConfig(videos=7, dim=32)
    config.tcd.steps = 5
    saved = asdict(config)
    assert weights.model_config_from(saved) == config
    del saved["tcd"]["infer_signal"], saved["objective"]
    assert weights.model_config_from(saved) == config


def test_every_zero_stage_gives_the_same_weights(two_ranks: dict[int, Path]) -> None:
    plain = weights.load(two_ranks[0], "last")
    names = {name for name, _ in runs.plain_model(plain.model_config).named_parameters()}
    assert names <= set(plain.state)
    for stage in (1, 2, 3):
        other = weights.load(two_ranks[stage], "last")
        assert other.model_config == plain.model_config
        for name in names:
            # Adam makes full steps of gradients that are all rounding (of a bias that softmax ignores).
            torch.testing.assert_close(other.state[name], plain.state[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_checkpoints_older_than_the_weights_file_are_read(
    two_ranks: dict[int, Path], tmp_path: Path, stage: int
) -> None:
    """What the run itself writes is what DeepSpeed's own tool finds in DeepSpeed's files, bit for bit."""
    expected, run = weights.load(two_ranks[stage]), tmp_path / "run"
    shutil.copytree(two_ranks[stage], run)
    checkpoint = weights.find(run, "best")
    (checkpoint / checkpoint_files.WEIGHTS).unlink()
    facts = json.loads((checkpoint / checkpoint_files.FACTS).read_text())
    for name in ("files", "items", "sha256"):
        del facts[name]
    (checkpoint / checkpoint_files.FACTS).write_text(json.dumps(facts))
    older = weights.load(run)
    assert older.model_config == expected.model_config and set(expected.state) <= set(older.state)
    for name, tensor in expected.state.items():
        torch.testing.assert_close(older.state[name], tensor, rtol=0, atol=0)
    weights.original_ids(run, older.facts)


def test_a_run_of_somebody_else_runs_no_code(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    run, proof = tmp_path / "run", tmp_path / "proof"
    shutil.copytree(two_ranks[0], run)
    for file in (run / "checkpoints").glob("*/*.pt"):
        torch.save({"module": Attack(proof)}, file)
    weights.load(run)  # reads none of these files
    for checkpoint in checkpoint_files.complete(run / "checkpoints"):
        facts = json.loads((checkpoint / checkpoint_files.FACTS).read_text())
        kept = {name: value for name, value in facts.items() if name not in ("files", "items", "sha256")}
        (checkpoint / checkpoint_files.FACTS).write_text(json.dumps(kept))
    with pytest.raises(UserError, match="is not read: it holds posix.mkdir, which is no tensor"):
        weights.load(run)
    assert not proof.exists()
    torch.load(file, weights_only=False)
    assert proof.exists(), "the attack itself works"

    (run / "config.yaml").write_text(f"data: {{path: 'pipe:touch {tmp_path}/proof2; cat'}}")
    shutil.copytree(two_ranks[0] / "checkpoints", run / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(UserError, match="data.path is the command"):
        command.main([str(run)])
    assert not (tmp_path / "proof2").exists()


def test_a_model_of_another_type_is_one_line(two_ranks: dict[int, Path]) -> None:
    model = weights.load(two_ranks[0]).facts.model
    for change in ({"dim": "wide"}, {"dim": [1]}, {"tcd": {"steps": "many"}}):
        with pytest.raises(UserError, match="expected INT"):
            weights.model_config_from({**model, **change})


def test_best_is_the_one_with_the_best_validation(two_ranks: dict[int, Path]) -> None:
    from tests.trainer import runs

    best = weights.load(two_ranks[1]).facts.progress["step"]
    scores = {r["step"]: r["ndcg@10"] for r in runs.records(two_ranks[1]) if r.get("split") == "valid"}
    assert scores[best] == max(scores.values())
    assert runs.results(two_ranks[1])["best_step"] == best


def test_match_items_compares_strings_too() -> None:
    assert weights.match_items(["a", "b"], ["b", "c", "a"]).tolist() == [2, -1, 1]
    assert weights.match_items(np.array([5, 7]), np.array([7, 5, 9])).tolist() == [2, 1, -1]


def test_wrong_runs_are_refused(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        weights.load(tmp_path)
    shutil.copy(two_ranks[1] / "config.yaml", tmp_path)
    with pytest.raises(UserError, match="no checkpoint yet"):
        weights.load(tmp_path)
