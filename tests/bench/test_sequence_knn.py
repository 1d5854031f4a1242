"""Sequence-kNN against the same by loops over users and videos."""

import math

import numpy as np
import pytest

from bench import report, sequence_knn
from bench.sequence_knn import DECAYS, Choice
from shards import Block, Index


@pytest.fixture(scope="module")
def world(make_data):
    index = Index.load(make_data())
    return sequence_knn.read(index), index.videos


def sequences(block: Block):
    for start, stop, (train_end, valid_end) in zip(
        block.starts[:-1], block.starts[1:], block.boundary, strict=True
    ):
        yield block.item[start:stop].tolist(), int(train_end), int(valid_end)


def by_loops(block: Block, videos: int, split: str, choice: Choice):
    """(above, equal) of each user, as the definitions say it."""
    everyone = list(sequences(block))
    trained = [set(items[:train_end]) for items, train_end, _ in everyone]
    counts = []
    for user, (items, _, valid_end) in enumerate(everyone):
        if len(items) < 3:
            continue
        cut = items[:valid_end] if split == "valid" else items
        history, target = cut[:-1], cut[-1]
        weights = {
            video: float(DECAYS[choice.decay](np.array([distance + 1.0]))[0])
            for distance, video in reversed(list(enumerate(reversed(history))))
        }
        similar = [
            (round(sum(weights[v] for v in shared) / math.sqrt(len(other)) * 2**20) / 2**20, n)
            for n, other in enumerate(trained)
            if n != user and (shared := set(history) & other)
        ]
        nearest = sorted(similar, key=lambda pair: (-pair[0], pair[1]))[: choice.neighbours]
        score = dict.fromkeys(range(1, videos + 1), 0.0)
        for similarity, n in nearest:
            for video in trained[n]:
                score[video] += similarity
        if choice.rarity:
            for video in score:
                having = sum(video in other for other in trained)
                score[video] *= math.log(len(trained) / max(having, 1))
        rivals = [s for video, s in score.items() if video != target and video not in history]
        own = score[target]
        counts.append((sum(s > own for s in rivals), sum(s == own for s in rivals)))
    return np.array(counts).T


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    "choice", [Choice("linear", 5, True), Choice("inverse", 200, False), Choice("equal", 3, False)]
)
def test_ranks_are_those_of_the_definition(world, split, choice, monkeypatch):
    block, videos = world
    monkeypatch.setattr(sequence_knn, "BATCH", 16)
    training = sequence_knn.training_matrix(block, videos)
    above, equal = sequence_knn.ranks(training, sequence_knn.queries(block, split), [choice])[choice]
    expected = by_loops(block, videos, split, choice)
    assert len(above) == len(expected[0]) > 50
    assert above.tolist() == expected[0].tolist() and equal.tolist() == expected[1].tolist()


def test_the_command_chooses_on_validation_and_tests_once(make_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "knn.csv"
    path = sequence_knn.__file__
    monkeypatch.setattr("sys.argv", [path, "--data", str(make_data()), "--out", str(out)])
    sequence_knn.main()
    rows = report.read(out)
    valid, test = rows[:-1], rows[-1]
    assert len(valid) == len(sequence_knn.GRID) and {row["split"] for row in valid} == {"valid"}
    (chosen,) = (
        row for row in valid if all(row[name] == test[name] for name in ("decay", "neighbours", "rarity"))
    )
    assert float(chosen["ndcg@10"]) == max(float(row["ndcg@10"]) for row in valid)
    assert test["split"] == "test"
    assert float(test["ndcg@10 low"]) < float(test["ndcg@10"]) < float(test["ndcg@10 high"])
    assert "written:" in capsys.readouterr().out
