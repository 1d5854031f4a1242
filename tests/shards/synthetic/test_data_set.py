"""The synthetic world: what its docstring says of it holds, and its oracle is the ceiling."""

import time

import numpy as np
import pytest

from shards import Block, Index
from shards.__main__ import main
from shards.format.check import check_data_set
from shards.format.reader import read_feature_shard, read_sequence_shard
from shards.synthetic import data_set, generator
from shards.synthetic.oracle import count_greater_equal, ranking_metrics


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """The default world and the seconds that it took."""
    path = tmp_path_factory.mktemp("world") / "default"
    begin = time.process_time()
    return data_set.synthesise(path), time.process_time() - begin


def test_the_default_world_is_fixed_documented_and_quick(default):
    index, seconds = default
    assert seconds < 20  # about 3 on one core
    assert (index.users, index.videos, index.frames, index.width) == (6000, 1200, 8, 32)
    assert 11 < index.interactions / index.users < 13
    assert index.source["seed"] == 0
    assert index.fingerprint == FINGERPRINT
    assert list(check_data_set(index.path)) == []


def test_floor_and_ceiling(default):
    score = data_set.read_oracle(default[0])
    for split in ("valid", "test"):
        assert 0.25 < score[split]["hr@10"] < 0.45
        assert score["popularity"][split]["hr@10"] < 0.06
        assert 0.35 < score[split]["ndcg@10"] / score[split]["hr@10"] < 0.75
    assert score["users"] == default[0].counts.test_users


def test_many_videos_have_few_views(default):
    counts = default[0].train_counts()[1:]
    assert np.median(counts) < 40 and (counts < 20).mean() > 0.2


def test_popularity_against_brute_force(tmp_path):
    index = data_set.synthesise(tmp_path / "d", users=150, videos=40, frames=2, width=4, seed=3)
    block = Block.concatenate([read_sequence_shard(index, e) for e in index.sequence_shards])
    counts, sums, users = index.train_counts(), {"hr@10": 0.0, "ndcg@5": 0.0, "mrr": 0.0}, 0
    for a, b in zip(block.starts[:-1], block.starts[1:], strict=True):
        items = block.item[a:b].tolist()
        if len(items) < 3:
            continue
        users += 1
        target, history = items[-1], set(items[:-1])
        others = [counts[j] for j in range(1, 41) if j not in history and j != target]
        above = sum(c > counts[target] for c in others)
        ranks = range(above + 1, above + sum(c == counts[target] for c in others) + 2)
        sums["hr@10"] += np.mean([r <= 10 for r in ranks])
        sums["ndcg@5"] += np.mean([(r <= 5) / np.log2(r + 1) for r in ranks])
        sums["mrr"] += np.mean([1 / r for r in ranks])
    found = data_set.read_oracle(index)["popularity"]["test"]
    assert users == data_set.read_oracle(index)["users"]
    for name, total in sums.items():
        assert found[name] == pytest.approx(total / users, abs=1e-6)


def test_constant_scores_rank_at_chance():
    greater, equal = count_greater_equal(np.zeros((4, 50)), np.arange(4))
    metrics = ranking_metrics(greater, equal, 50)
    assert metrics["hr@10"] == pytest.approx(10 / 50)
    assert metrics["mrr"] == pytest.approx((1 / np.arange(1, 51)).mean(), abs=1e-6)


def test_the_oracle_is_calibrated_and_unbeaten():
    """Its own chance of a hit is the share of hits, and no perturbed knowledge does better."""
    videos = generator.make_videos(150, 1)
    clicks = next(generator.make_clicks(videos, 1000, 1))
    chance = clicks.accidental.mean()
    assert abs(chance - generator.ACCIDENT) < 0.01
    hits = (clicks.greater < 10).mean()
    intended = (clicks.greater < 10)[clicks.accidental == 0].mean()
    accidental = (clicks.greater < 10)[clicks.accidental == 1].mean()
    assert intended > hits > accidental > 10 / 150


def test_no_user_clicks_twice_and_times_rise():
    clicks = next(generator.make_clicks(generator.make_videos(60, 2), 300, 2))
    ends = np.cumsum(clicks.length)
    for a, b in zip(ends - clicks.length, ends, strict=True):
        assert len(set(clicks.item[a:b])) == b - a
        assert (np.diff(clicks.time[a:b]) > 0).all()


def test_content_is_in_few_frames_and_their_order_shows_the_sequel():
    videos = generator.make_videos(800, 0)
    features, real = generator.make_frames(videos, 8, 32, 0)
    assert features.dtype == np.float16 and 0 < (real == 0).sum() < 40
    full = real == 8
    x, z, ahead = features[full].astype(float), videos.content[full], (videos.sequel - videos.content)[full]
    basis = np.linalg.lstsq(z, x.sum(axis=1), rcond=None)[0]  # [LATENT, V], up to scale
    basis = np.linalg.qr(basis.T)[0]
    energy = ((x @ basis) ** 2).sum(axis=2) / (x**2).sum(axis=2)
    salient = np.sort(np.argsort(-energy, axis=1)[:, : generator.SALIENT], axis=1)
    first, last = (np.take_along_axis(x, salient[:, [at], None], axis=1)[:, 0] for at in (0, -1))
    best = np.linalg.lstsq(x.mean(axis=1), z, rcond=None)[0]
    assert np.corrcoef((x.mean(axis=1) @ best).ravel(), z.ravel())[0, 1] > 0.7
    step = np.linalg.lstsq(last - first, ahead, rcond=None)[0]
    assert np.corrcoef(((last - first) @ step).ravel(), ahead.ravel())[0, 1] > 0.5
    apart = ((x[:, :, None] - x[:, None]) ** 2).sum(axis=-1) + 9 * np.eye(8)
    assert abs((apart.min(axis=2) < 2.75 * generator.SENSOR**2).mean() - generator.REDUNDANT / 8) < 0.06


def test_frames_past_the_count_are_zero_and_videos_without_features_have_no_record(default):
    index = default[0]
    seen = set()
    for entry in index.feature_shards:
        for row, frames, count in read_feature_shard(index, entry):
            seen.add(row)
            assert 4 <= count <= 8 and not frames[count:].any()
    assert len(seen) == 1200 - index.source["videos_without_features"]


@pytest.mark.parametrize("width", [4, 12, 40])
def test_other_sizes(tmp_path, width):
    index = data_set.synthesise(tmp_path / "d", users=20, videos=20, frames=1, width=width, seed=5)
    assert (index.frames, index.width) == (1, width)
    assert list(check_data_set(index.path)) == []


def test_without_features(tmp_path):
    index = data_set.synthesise(tmp_path / "d", users=20, videos=20, frames=0)
    assert index.features is None and index.frames == 0 and list(check_data_set(index.path)) == []


def test_the_command_prints_floor_and_ceiling(tmp_path, capsys):
    arguments = ["--users", "50", "--videos", "30", "--frames", "2", "--width", "4", "--seed", "1"]
    assert main(["synth", "--out", str(tmp_path / "d"), *arguments]) == 0
    out = capsys.readouterr().out
    score = data_set.read_oracle(Index.load(tmp_path / "d"))
    assert f"{score['test']['hr@10']:.4f}" in out and "popularity" in out and "oracle" in out
    assert main(["synth", "--out", str(tmp_path / "e"), "--videos", "3"]) == 2
    assert capsys.readouterr().err == "error: --videos: found 3, expected at least 20\n"


FINGERPRINT = "sha256:4c74dbd80c50861817dea64b0fa1272101c818c8babdcb6e6130dc14c9d9a0fa"
