"""Late fusion against log-softmax scores that are added in NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer import runs
from tests.trainer.evaluation.test_evaluate import brute_force, mean
from trainer.errors import UserError
from trainer.evaluation import command, ranks
from trainer.evaluation.run import open_inputs, open_run, single_world

Users = dict[int, np.ndarray]


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(cache))


@pytest.fixture(scope="module")
def ids_alone(workplace: Path, data: Path, cache: Path) -> dict[str, Path]:
    """Runs without frames, of another seed, width and with biases: and one with a shorter history."""
    made = {name: workplace / f"fusion-{name}" for name in ("ids", "short")}
    plain = {"model__use_video": "false", "model__item_bias": "true", "train__max_epochs": 1, "model__dim": 8}
    commands = [
        runs.arguments(made["ids"], data, seed=5, **plain),
        runs.arguments(made["short"], data, data__max_length=7, **plain),
    ]
    assert runs.train_several(1, commands, cache) == [None, None]
    return made


def log_softmax(run: Path) -> tuple[Users, dict[int, int]]:
    """A run's scores of all videos by user, float64 [I], and the targets."""
    config, best = open_run(str(run), None)
    inputs = open_inputs(config, best, single_world())
    model, scores, targets = best.model(inputs).eval(), {}, {}
    for batch in inputs.eval_stream("test", config.eval):
        with torch.no_grad():
            placed = inputs.on_device(batch)
            score, item = model(placed, task="top", k=inputs.index.videos, mask_history=False)
        table = np.empty(score.shape)
        np.put_along_axis(table, item.numpy() - 1, score.double().numpy(), axis=1)
        table -= np.log(np.exp(table).sum(1, keepdims=True))
        for row, user in enumerate(batch["sample_id"].tolist()):
            if batch["weight"][row]:
                scores[user], targets[user] = table[row], int(batch["target"][row])
    return scores, targets


@pytest.mark.parametrize("ids_first", [False, True])
def test_fusion_is_the_sum_of_log_softmax_scores(
    one_rank: dict[str, Path], ids_alone: dict[str, Path], sequences, tmp_path: Path, ids_first: bool, capsys
) -> None:
    names = [one_rank["whole"], ids_alone["ids"], one_rank["zero3"]]
    if ids_first:
        names = [names[1], names[0], names[2]]
    (one, targets), (two, _), (three, _) = map(log_softmax, names)
    expected = {
        user: brute_force(one[user] + two[user] + three[user], target, set(sequences[user][:-1]))
        for user, target in targets.items()
    }
    before = (names[0] / "ranks-test.parquet").read_bytes()
    file = tmp_path / "fused.parquet"
    first, *others = map(str, names)
    assert command.main([first, "--fuse", *others, "--ranks", str(file)]) == 0
    printed = json.loads(capsys.readouterr().out)
    truth = mean([*expected.values()])
    assert {name: printed[name] for name in truth} == pytest.approx(truth, abs=1e-9)
    kept = ranks.read(file)
    gains = kept.gains()
    for name in truth:  # user by user
        assert gains[name].tolist() == pytest.approx([expected[user][name] for user in sorted(expected)])
    assert kept.facts.models == 3 and kept.facts.step == runs.results(names[0])["best_step"]
    # Without --ranks there is no file: the run's own is of the run alone.
    assert command.main([first, "--fuse", *others]) == 0
    assert (names[0] / "ranks-test.parquet").read_bytes() == before


def test_a_run_with_itself_ranks_as_alone(one_rank: dict[str, Path], capsys) -> None:
    run = str(one_rank["whole"])
    assert command.main([run, "--fuse", run]) == 0
    fused, alone = json.loads(capsys.readouterr().out), runs.results(one_rank["whole"])["test"]
    assert {name: fused[name] for name in alone} == pytest.approx(alone, abs=1e-9)


def test_runs_that_do_not_fit_are_refused(
    one_rank: dict[str, Path], ids_alone: dict[str, Path], make_data, workplace: Path, cache: Path
) -> None:
    run = str(one_rank["whole"])
    with pytest.raises(UserError, match="found data.max_length 7, expected 20, as in"):
        command.main([run, "--fuse", str(ids_alone["short"])])
    other = workplace / "fusion-other"
    arguments = runs.arguments(other, make_data(), train__max_epochs=1, train__batch_size=32)
    assert runs.train_several(1, [arguments], cache) == [None]
    with pytest.raises(UserError, match=f"has other videos than the data of {other}"):
        command.main([run, "--fuse", str(other)])


def test_noise_on_the_features(
    one_rank: dict[str, Path], ids_alone: dict[str, Path], tmp_path: Path, capsys
) -> None:
    run, metrics = str(one_rank["whole"]), {}
    before = (one_rank["whole"] / "ranks-test.parquet").read_bytes()
    for sigma in ("0", "3"):
        assert command.main([run, "--noise", sigma, "--ranks", str(tmp_path / sigma)]) == 0
        metrics[sigma] = json.loads(capsys.readouterr().out)
    alone = runs.results(one_rank["whole"])["test"]
    assert {name: metrics["0"][name] for name in alone} == pytest.approx(alone, abs=1e-9)
    clean, noisy = (ranks.read(tmp_path / sigma) for sigma in ("0", "3"))
    assert (clean.facts.noise, noisy.facts.noise) == (0.0, 3.0)
    assert (clean.above != noisy.above).mean() > 0.5
    assert command.main([run, "--noise", "3"]) == 0
    assert (one_rank["whole"] / "ranks-test.parquet").read_bytes() == before
    for arguments, message in (
        ([run, "--noise", "-1"], "--noise is -1.0, expected a number of at least 0"),
        ([str(ids_alone["ids"]), "--noise", "1"], "reads no frames"),
    ):
        with pytest.raises(UserError, match=message):
            command.main(arguments)
