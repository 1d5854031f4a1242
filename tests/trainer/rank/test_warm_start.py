"""A start from another run: weights and moments by original id, on any stage and number of ranks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mealrec import MealRec
from shards import DataSetWriter, FeatureTable, Index, file_sha256, read_feature_shard
from tests.trainer import runs
from tests.trainer.attack import Attack
from trainer import checkpoint_files
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.rank import moments
from trainer.rank.similar_videos import nearest
from trainer.rank.universal import to_universal
from trainer.rank.warm_start import WarmStart

KEYS = ("exp_avg", "exp_avg_sq")


@pytest.fixture(scope="module")
def newer(data: Path, workplace: Path) -> Path:
    """Videos of the data set in another order, without video 7, and three new ones.

    The first new one is a copy of video 3, the second is like none, the last has no features. Some known
    ones have none either.
    """
    old, out = Index.load(data), workplace / "newer"
    frames = {
        row: (real, count) for e in old.feature_shards for row, real, count in read_feature_shard(old, e)
    }
    ids = old.item_ids()
    order = [row for row in range(len(ids), 0, -1) if row != 7]
    rng = np.random.default_rng(0)
    sequences = rng.integers(1, len(order) + 4, (64, 6))
    with DataSetWriter(
        out,
        name="newer",
        item_ids=np.concatenate([ids[np.array(order) - 1], [9001, 9002, 9003]]),
        user_type="int64",
        split={"kind": "leave-one-out"},
        features=old.features,
    ) as writer:
        length = np.full(64, 6)
        boundary = np.tile([4, 5], (64, 1))
        writer.add_users(np.arange(64), length, sequences.ravel(), np.zeros(64 * 6), boundary)
        for at, row in enumerate([*order, 3], start=1):
            if row in frames:
                writer.add_video(at, *frames[row])
        like_none = rng.standard_normal(frames[3][0].shape).astype(old.features.dtype)
        writer.add_video(len(order) + 2, like_none, len(like_none))
        writer.commit({})
    return out


@pytest.fixture(scope="module")
def table(newer: Path, cache: Path) -> FeatureTable:
    table = FeatureTable.open(Index.load(newer), cache)
    assert table is not None
    return table


@pytest.fixture(scope="module", params=[1, 2])
def started(
    request: pytest.FixtureRequest, two_ranks: dict[int, Path], newer: Path, cache: Path, workplace: Path
) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """(old stage, new stage) -> what one or two ranks hold after a start from runs of two ranks."""
    folder = workplace / f"started-{request.param}"
    folder.mkdir()
    pairs = {1: [(0, 2), (1, 3), (2, 0), (3, 1)], 2: [(0, 3), (1, 0), (2, 1), (3, 2)]}[request.param]
    out = {(old, new): folder / f"{old}-{new}.safetensors" for old, new in pairs}
    cases = [[str(two_ranks[old]), new, str(path)] for (old, new), path in out.items()]
    script = str(Path(__file__).with_name("moments_after_start.py"))
    ranks = runs.start(request.param, [script, json.dumps({"data": str(newer), "cases": cases})], cache)
    ended = [rank.communicate(timeout=300) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(err[-3000:] for _, err in ended)
    return {stages: load_file(path) for stages, path in out.items()}


@pytest.fixture(scope="module")
def before(two_ranks: dict[int, Path], workplace: Path) -> dict[int, dict[str, torch.Tensor]]:
    """The moments in the best checkpoint of each stage, by DeepSpeed's converter; of stage 0 by number."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for stage, run in two_ranks.items():
        copy = workplace / f"converted-{stage}"
        shutil.copytree(run, copy)
        checkpoint = weights.find(copy, "best")
        found[stage] = {}
        if stage == 0:
            saved = torch.load(checkpoint / "mp_rank_00_model_states.pt", weights_only=False)
            parameters = {
                name: p for name, p in runs.plain_model(weights.load(run).model_config).named_parameters()
            }
            matrices = [
                n for n, p in parameters.items() if p.ndim > 1 and n.endswith("weight") and n != "item"
            ]
            others = [n for n in parameters if n not in matrices and n != "item"]
            for at, name in enumerate([*matrices, *others, "item"]):
                found[0] |= {f"{name}/{key}": saved["optimizer"]["state"][at][key] for key in KEYS}
            continue
        for folder in (path for path in (to_universal(checkpoint) / "zero").iterdir() if path.is_dir()):
            for key in KEYS:
                merged = torch.load(folder / f"{key}.pt", weights_only=False)
                found[stage][f"{folder.name}/{key}"] = merged["param"] if isinstance(merged, dict) else merged
    return found


def test_moments_are_the_same_at_every_stage(started, before, two_ranks: dict[int, Path]) -> None:
    """Known rows and all parameters of equal shape keep weight, moments and step, bit for bit."""
    for (old, new), found in started.items():
        best = weights.load(two_ranks[old])
        assert (found["step"] == best.facts.progress["step"]).all(), (old, new)
        names = [name for name in best.state if f"{name}/exp_avg" in found]
        assert set(names) == set(best.state)
        for name in names:
            for key in ("", *(f"/{key}" for key in KEYS)):
                was = before[old][name + key] if key else best.state[name]
                was, now = was.view(best.state[name].shape), found[name + key]
                if name in ("item", "bias"):
                    known = [row for row in range(120, 0, -1) if row != 7]
                    was, now = was[known], now[1:120]
                elif name == "position":
                    assert now.shape[0] == 25
                    now = now[:20]
                assert torch.equal(now, was), (old, new, name + key)
                assert was.abs().sum() > 0 or not key, (old, name + key)


def test_new_rows(started, before, two_ranks: dict[int, Path], table: FeatureTable) -> None:
    """A new video is the mean of those like it; without features fresh, with zero and typical moments."""
    known = np.array([row for row in range(120, 0, -1) if row != 7])
    sums = table.features[1:122].sum(1, dtype=np.float64)
    directions = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    seen = table.frames[1:120] > 0
    assert 0 < seen.sum() < 119, "the case has known videos without features"
    for (old, _), found in started.items():
        best = weights.load(two_ranks[old])
        for row in (120, 121):
            similarity = np.where(seen, directions[:119] @ directions[row - 1], -2)
            like = known[np.argsort(-similarity, kind="stable")[:10]]
            if row == 120:
                assert 3 in like
            for key, was in {
                "": best.state["item"],
                **{f"/{k}": before[old][f"item/{k}"] for k in KEYS},
            }.items():
                expected = was.view(121, -1)[torch.from_numpy(like)].mean(0)
                torch.testing.assert_close(found["item" + key][row], expected)
        fresh = runs.plain_model(replace(best.model_config, videos=122, max_length=25), seed=0)
        assert torch.equal(found["item"][122], fresh.item[122].detach())
        assert torch.equal(found["item/exp_avg"][122], torch.zeros(16))
        typical = before[old]["item/exp_avg_sq"].view(121, -1)[1:].mean(0)
        torch.testing.assert_close(found["item/exp_avg_sq"][122], typical)
        assert not found["position/exp_avg"][20:].any() and found["position/exp_avg_sq"][20:].all()


def test_nearest_compares_in_blocks(table: FeatureTable, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.rank import similar_videos

    seen = np.flatnonzero(table.frames)
    videos, among = np.array([*seen[-2:], seen[5]]), seen[:-2]
    whole = nearest(table, videos, among)
    assert whole.shape == (3, 10) and whole[2, 0] == seen[5], "a video is most like itself"
    monkeypatch.setattr(similar_videos, "BLOCK", 7)
    np.testing.assert_array_equal(nearest(table, videos, among), whole)
    assert nearest(table, videos, among[:4]).shape == (3, 4)


def test_training_goes_on(two_ranks: dict[int, Path], newer: Path, cache: Path, workplace: Path) -> None:
    """Runs that start from another one train; with the moments, and with no more than the weights."""
    bare = workplace / "weights-only"
    shutil.copytree(two_ranks[2], bare)
    for file in bare.glob("checkpoints/*/*.pt"):
        file.unlink()
    more = dict(train__max_epochs=1, train__ema=0.9, train__table_lr=0.001)
    more["model__npd__noise_conditional"] = "true"
    made = [workplace / f"goes-on-{n}" for n in range(3)]
    commands = [
        runs.arguments(made[0], newer, init_from=two_ranks[3], train__max_epochs=1, train__zero_stage=1),
        runs.arguments(made[1], newer, init_from=two_ranks[0], **more),
        runs.arguments(made[2], newer, init_from=bare, train__max_epochs=1),
    ]
    ranks = runs.start(1, [str(Path(runs.__file__).with_name("several.py")), json.dumps(commands)], cache)
    (out, err) = ranks[0].communicate(timeout=300)
    assert ranks[0].returncode == 0, err[-3000:]
    assert [json.loads(line) for line in out.splitlines() if line.startswith(('"', "null"))] == [None] * 3
    assert err.count("119 videos known, 3 new (2 of them start from videos like them)") == 3
    assert err.count("new parts: npd") == 1
    assert err.count("the optimiser starts afresh: parts of the model are new") == 1
    assert err.count("holds no state of Adam, only weights") == 1
    assert err.count("the optimiser goes on after") == 1
    for run in made:
        assert runs.results(run)["best_step"] > 0


def read_moments(run: Path, **changes: object) -> moments.Moments | None:
    """What `moments.read` finds in the best checkpoint of a run, whose facts have changes."""
    old, checkpoint = weights.load(run), weights.find(run, "best")
    shapes = {name: weight.shape for name, weight in old.state.items()}
    return moments.read(checkpoint, replace(old.facts, **changes), shapes)


def test_files_of_the_optimiser_are_not_trusted(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    """Damage is one line, another optimiser's state is none, and no code of a file runs."""
    run, proof = tmp_path / "run", tmp_path / "proof"
    shutil.copytree(two_ranks[1], run)
    first, second = sorted(weights.find(run, "best").glob("*_optim_states.pt"))
    saved = torch.load(first, weights_only=False)
    second.rename(tmp_path / "second")
    with pytest.raises(checkpoint_files.Damaged, match="files of 1 ranks of 2"):
        read_moments(run)
    (tmp_path / "second").rename(second)
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(checkpoint_files.Damaged, match="has another content than was written"):
        read_moments(run)
    assert read_moments(run, files=None) is None, "cut off, in a checkpoint without checksums"
    for group in saved["optimizer_state_dict"]["base_optimizer_state"]["state"].values():
        group["momentum"] = group.pop("exp_avg")
    torch.save(saved, first)
    torch.save(saved, second)
    assert read_moments(run, files=None) is None, "not Adam's"
    torch.save({"optimizer_state_dict": Attack(proof)}, first)
    with pytest.raises(UserError, match="which is no tensor"):
        read_moments(run, files=None)
    assert not proof.exists()


def start(model: MealRec, run: Path, ids: weights.Ids) -> WarmStart:
    """A start of a model, of one rank and without features."""
    warm = WarmStart(str(run), ids, None, is_main=True)
    warm.put_weights(model)
    return warm


def test_warm_start_matches_videos_by_original_id(two_ranks: dict[int, Path]) -> None:
    run = two_ranks[1]
    old, old_ids = weights.load(run), weights.original_ids(run, weights.load(run).facts)
    new_ids = [*old_ids[::-1].tolist(), -5, -6]  # the old ones in another order, and two new ones
    config = replace(old.model_config, videos=122, max_length=25)
    fresh, model = runs.plain_model(config, seed=3), runs.plain_model(config, seed=3)
    warm = start(model, run, new_ids)
    assert (warm.rows.known < 0).tolist() == [False] * 120 + [True] * 2 and not warm.fresh_parts
    torch.testing.assert_close(model.item[1:121].flip(0), old.state["item"][1:], rtol=0, atol=0)
    torch.testing.assert_close(model.item[121:], fresh.item[121:], rtol=0, atol=0)
    torch.testing.assert_close(model.position[:20], old.state["position"], rtol=0, atol=0)
    torch.testing.assert_close(model.position[20:], fresh.position[20:], rtol=0, atol=0)


def with_weights(run: Path, copy: Path, state: dict[str, torch.Tensor]) -> Path:
    """A copy of a run whose best checkpoint has other weights."""
    shutil.copytree(run, copy)
    checkpoint = weights.find(copy, "best")
    save_file(state, checkpoint / checkpoint_files.WEIGHTS)
    facts = checkpoint_files.CheckpointFacts.read(checkpoint)
    written = {**facts.files, checkpoint_files.WEIGHTS: file_sha256(checkpoint / checkpoint_files.WEIGHTS)}
    replace(facts, files=written).write(checkpoint)
    return copy


def test_warm_start_matches_biases_too(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    run = two_ranks[1]
    old, ids = weights.load(run), weights.original_ids(run, weights.load(run).facts)
    biased = with_weights(run, tmp_path / "biased", {**old.state, "bias": torch.arange(121.0)})
    config = replace(old.model_config, item_bias=True, videos=121)
    model = runs.plain_model(config, train_counts=torch.full((122,), 7))
    start(model, biased, [-5, *ids[::-1].tolist()])
    expected = torch.cat([torch.tensor([7.0]).log(), torch.arange(120.0, 0, -1)])
    torch.testing.assert_close(model.bias[1:].detach(), expected)


def test_modules_can_be_added_to_trained_ids(two_ranks: dict[int, Path], tmp_path: Path) -> None:
    """Parts that the run did not have start fresh; parts that the new model does not have are left out."""
    run = two_ranks[1]
    old, ids = weights.load(run), weights.original_ids(run, weights.load(run).facts)
    without = replace(old.model_config, npd=replace(old.model_config.npd, enabled=False))
    backbone = runs.plain_model(without, seed=3)
    assert start(backbone, run, ids).fresh_parts == []
    assert torch.equal(backbone.backbone.blocks[0].qkv.weight, old.state["backbone.blocks.0.qkv.weight"])
    state = {name: weight for name, weight in old.state.items() if not name.startswith(("npd.", "tcd."))}
    full, fresh = runs.plain_model(old.model_config, seed=3), runs.plain_model(old.model_config, seed=3)
    without_modules = with_weights(run, tmp_path / "backbone", state)
    assert start(full, without_modules, ids).fresh_parts == ["npd", "tcd"]
    assert torch.equal(full.item[1:], old.state["item"][1:])
    assert torch.equal(full.npd.denoiser.middle.weight, fresh.npd.denoiser.middle.weight)


def test_another_width_is_refused(two_ranks: dict[int, Path]) -> None:
    wide = runs.plain_model(replace(weights.load(two_ranks[1]).model_config, dim=32))
    with pytest.raises(UserError, match="another model: weight item"):
        start(wide, two_ranks[1], range(120))
