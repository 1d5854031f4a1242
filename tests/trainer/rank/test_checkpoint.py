"""A killed run continues to the same numbers, other ranks to nearly the same, and not on other data."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mealrec import MealRecConfig
from tests.trainer import runs
from trainer import checkpoint_files
from trainer.checkpoint_files import CheckpointFacts
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.rank import checkpoint
from trainer.rank.checkpoint import Checkpoints

STAGE = 2  # of the run that is killed


def test_killed_run_continues_bit_for_bit(
    workplace: Path, data: Path, cache: Path, two_ranks: dict[int, Path]
) -> None:
    """The kill comes while the checkpoint of step 12 is being written, and training has gone on."""
    run = workplace / "killed"
    command = runs.arguments(run, data, train__zero_stage=STAGE, train__micro_batch_size=16)
    script = Path(__file__).with_name("stuck_writer.py")
    ranks = runs.start(2, [str(script), "12", *command], cache)
    while not any(record["step"] >= 13 for record in runs.records(run)):
        assert all(rank.poll() is None for rank in ranks), ranks[0].stderr.read()[-3000:]
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.communicate()
    assert not (run / "results.json").exists()
    saved = json.loads((checkpoint_files.newest(run / "checkpoints") / checkpoint_files.FACTS).read_text())
    assert saved["progress"]["step"] == 9
    assert list((run / "checkpoints" / "step-00000012.partial").iterdir())

    again = ["--run", str(run), "--resume"]
    before = (two_ranks[0] / "results.json").read_text()
    finished = ["--run", str(two_ranks[0]), "--resume"]
    assert runs.train_several(2, [again, finished], cache) == [None, None]
    assert runs.losses(run) == runs.losses(two_ranks[STAGE])
    assert runs.results(run)["test"] == runs.results(two_ranks[STAGE])["test"]
    assert runs.samples(run) == runs.samples(two_ranks[STAGE]), "no sample twice, none left out"
    splits = [record["split"] for record in runs.records(run) if "split" in record]
    assert splits == ["valid"] * 3 + ["test"]
    assert (two_ranks[0] / "results.json").read_text() == before, "a finished run stays as it is"


def test_another_number_of_ranks(workplace: Path, cache: Path, two_ranks: dict[int, Path]) -> None:
    """From 2 ranks to 1 in mid-epoch; ZeRO 1 to 3 through the universal form, ZeRO 0 needs none."""
    copies = {
        stage: cut_copy(run, workplace / f"universal{stage}", step=9) for stage, run in two_ranks.items()
    }
    commands = [
        ["--run", str(copy), "--resume", "--train.micro_batch_size", "32"] for copy in copies.values()
    ]
    assert runs.train_several(1, commands, cache) == [None] * 4
    for stage, copy in copies.items():
        actual, expected = np.array(runs.losses(copy)), np.array(runs.losses(two_ranks[stage]))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert runs.results(copy)["world_size"] == 1
        assert runs.samples(copy) == runs.samples(two_ranks[stage])
        assert not list((copy / "checkpoints").glob("*universal"))


def test_another_zero_stage(workplace: Path, cache: Path, two_ranks: dict[int, Path]) -> None:
    """From 1 to 2 in mid-epoch, and back."""
    copies = {stage: cut_copy(two_ranks[stage], workplace / f"stage{stage}", step=9) for stage in (1, 2)}
    commands = [
        ["--run", str(copy), "--resume", "--train.zero_stage", str(3 - stage)]
        for stage, copy in copies.items()
    ]
    assert runs.train_several(2, commands, cache) == [None, None]
    for stage, copy in copies.items():
        actual, expected = np.array(runs.losses(copy)), np.array(runs.losses(two_ranks[stage]))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert runs.samples(copy) == runs.samples(two_ranks[stage])


def cut_copy(run: Path, copy: Path, step: int) -> Path:
    """A copy of a finished run as if it had been killed after the checkpoint of `step`."""
    shutil.copytree(run, copy)
    (copy / "results.json").unlink()
    for actual in checkpoint_files.complete(copy / "checkpoints"):
        if int(actual.name[5:]) > step:
            shutil.rmtree(actual)
    return copy


def checkpoints_of(run: Path, **changes: object) -> Checkpoints:
    """As the run's own, but for the changes."""
    facts = json.loads((checkpoint_files.newest(run / "checkpoints") / checkpoint_files.FACTS).read_text())
    own = {
        "fingerprint": facts["fingerprint"],
        "model": weights.load(run).model_config,
        "items": facts["items"],
    }
    own |= {"keep": 2, "seed": 0}
    return Checkpoints(run / "checkpoints", World(size=2), **{**own, **changes})


def test_other_data_model_or_optimiser_state_is_refused(two_ranks: dict[int, Path]) -> None:
    run, same = two_ranks[1], {"zero_optimization": {"stage": 1}}
    assert checkpoints_of(run).resumable(same) == (checkpoint_files.newest(run / "checkpoints"), False)
    with pytest.raises(
        UserError, match="made from other data: fingerprint sha256:[0-9a-f]+, .* has sha256:00"
    ):
        checkpoints_of(run, fingerprint="sha256:00").resumable(same)
    with pytest.raises(UserError, match=r"another model: model\.dim is 16 there and 32 now"):
        checkpoints_of(run, model=replace(weights.load(run).model_config, dim=32)).resumable(same)
    with pytest.raises(UserError, match="saved with --train.zero_stage 1: it cannot continue with 0"):
        checkpoints_of(run).resumable({})
    with pytest.raises(UserError, match="saved with --train.zero_stage 1: it cannot continue with 3"):
        checkpoints_of(run).resumable({"zero_optimization": {"stage": 3}})


def test_half_a_checkpoint_is_never_taken_up(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    folder = cut_copy(two_ranks[1], tmp_path / "run", step=9) / "checkpoints"
    shutil.copytree(folder / "step-00000009", folder / "step-00000012.partial")  # killed before the renaming
    shutil.copytree(folder / "step-00000009", folder / "step-00000015")
    (folder / "step-00000015" / checkpoint_files.FACTS).unlink()
    assert checkpoint_files.newest(folder).name == "step-00000009"
    checkpoint.remove_leftovers(folder)
    assert not (folder / "step-00000012.partial").exists()
    assert (folder / "latest").read_text() == "step-00000021"


def test_a_second_save_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    """SIGUSR1 may come in a step that is saved anyway."""
    (tmp_path / "step-00000007").mkdir()
    (tmp_path / "step-00000007.partial").mkdir()
    (tmp_path / "step-00000007.partial" / "weights").write_text("new")
    saved = Checkpoints(tmp_path, World(), fingerprint="", items="", model=MealRecConfig(), keep=2, seed=0)
    facts = CheckpointFacts("", {}, world_size=1, seed=0, zero_stage=0, progress={"step": 7})
    saved._complete(tmp_path / "step-00000007.partial", facts, best_step=None, written={})
    assert (tmp_path / "step-00000007" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000007"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    actual = Checkpoints(tmp_path, World(), fingerprint="", items="", model=MealRecConfig(), keep=2, seed=0)
    for step in (3, 7, 9, 12, 15):
        (tmp_path / checkpoint_files.tag(step)).mkdir()
        (tmp_path / checkpoint_files.tag(step) / checkpoint_files.FACTS).write_text("{}")
    actual._remove_old(checkpoint_files.tag(15), best_step=3)
    assert [path.name for path in checkpoint_files.complete(tmp_path)] == [
        checkpoint_files.tag(step) for step in (3, 12, 15)
    ]


def test_first_difference_is_named() -> None:
    one = {"a": 1, "b": {"c": 2, "d": 3}}
    assert checkpoint.first_difference(one, {"a": 1, "b": {"c": 2, "d": 3}}, "model") is None
    assert checkpoint.first_difference(one, {"a": 1, "b": {"c": 5, "d": 4}}, "model") == ("model.b.c", 2, 5)
