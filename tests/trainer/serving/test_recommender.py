"""Recommendations against scores that are computed by hand from the model's own parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.serving.exports import (
    LENGTH,
    TEXT_IDS,
    VIDEOS,
    make_config,
    make_model,
    make_table,
    write_export,
)
from trainer.errors import UserError
from trainer.serving import Recommender

HISTORIES = [
    ["video 4", "video 9", "video 2"],  # video 2 has number 3: no frames
    ["video 39"],
    [f"video {number}" for number in range(11, 11 + LENGTH + 3)],
    ["video 0", "video 0", "video 5", "video 0"],
    ["video 7", "video 8"],
]


def scores_of(history: list[int], table) -> np.ndarray:
    """Scores of all videos for one history, alone in a batch that is made here."""
    newest = history[-LENGTH:]
    batch = {
        "sample_id": torch.zeros(1).long(),
        "item": torch.tensor([newest]),
        "offset": torch.tensor([len(history) - len(newest)]),
        "seed": torch.tensor(7),
        "features": torch.from_numpy(table.features[[0, *newest]]),
        "frames": torch.from_numpy(table.frames[[0, *newest]]),
        "feature_row": torch.arange(1, len(newest) + 1)[None],
    }
    model = make_model(make_config())
    with torch.no_grad():
        return (model.user_vectors(batch, 2) @ model.video_vectors().T)[0].numpy()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    table = make_table(tmp_path_factory.mktemp("truth") / "frames")
    numbers = [[TEXT_IDS.tolist().index(item) + 1 for item in history] for history in HISTORIES]
    return [scores_of(history, table) for history in numbers]


def expected(scores: np.ndarray, hidden: set[str], k: int) -> list[str]:
    order = [TEXT_IDS[place].item() for place in np.argsort(-scores)]
    return [item for item in order if item not in hidden][:k]


def test_the_best_unseen_videos_by_score(small: Recommender, truth: list[np.ndarray]) -> None:
    found = small.recommend(HISTORIES, k=9)
    for row, history, scores in zip(found, HISTORIES, truth, strict=True):
        assert [item for item, _ in row] == expected(scores, {*history}, 9)
        places = [TEXT_IDS.tolist().index(item) for item, _ in row]
        np.testing.assert_allclose([score for _, score in row], scores[places], rtol=1e-4, atol=1e-5)
    kept = small.recommend(HISTORIES, k=VIDEOS, mask_history=False)
    assert [[item for item, _ in row] for row in kept] == [
        expected(scores, set(), VIDEOS) for scores in truth
    ]


def test_only_allowed_and_no_denied_videos(small: Recommender, truth: list[np.ndarray]) -> None:
    allow = [f"video {number}" for number in range(0, VIDEOS, 3)]
    deny = ["video 3", "video 12", "nobody's"]
    found = small.recommend(HISTORIES, k=20, allow=[*allow, "unknown"], deny=deny)
    for row, history, scores in zip(found, HISTORIES, truth, strict=True):
        hidden = {*TEXT_IDS.tolist()} - {*allow} | {*deny, *history}
        assert [item for item, _ in row] == expected(scores, hidden, 20)
        assert len(row) < 20
    with pytest.raises(UserError, match="leave none of the 40 videos"):
        small.recommend(HISTORIES, allow=["video 1"], deny=["video 1"])
    with pytest.raises(UserError, match="leave none"):
        small.recommend(HISTORIES, allow=[])


def test_a_history_decides_alone(small: Recommender) -> None:
    """Not its place, its neighbours or the number of devices."""
    whole = small.recommend(HISTORIES, k=5)
    alone = [small.recommend([history], k=5)[0] for history in HISTORIES]
    several = Recommender(small.source, [torch.device("cpu")] * 3).recommend(HISTORIES * 3, k=5)
    for row, same, again in zip(whole * 3, alone * 3, several, strict=True):
        assert [item for item, _ in row] == [item for item, _ in same] == [item for item, _ in again]


def test_unknown_ids_are_skipped_or_refused(small: Recommender) -> None:
    known, mixed = ["video 4", "video 9"], ["x", "video 4", 17, "video 9"]
    assert small.recommend([mixed], k=4) == small.recommend([known], k=4)
    assert small.recommend([[], ["x"], known], k=4)[:2] == [[], []]
    assert small.recommend([]) == []
    with pytest.raises(UserError, match="^history 1: the model knows no video 17$"):
        small.recommend([known, [17]], strict=True)


@pytest.mark.parametrize("k", [0, VIDEOS + 1])
def test_as_many_videos_as_there_are(small: Recommender, k: int) -> None:
    with pytest.raises(UserError, match=f"k {k}: expected 1 to {VIDEOS}, the videos of the model"):
        small.recommend([["video 1"]], k=k)


def test_ids_keep_their_type(tmp_path: Path) -> None:
    ids = np.arange(900, 900 + VIDEOS)
    small = Recommender.load(write_export(tmp_path / "numbers", video=False, ids=ids))
    by_number, by_text = small.recommend([[901, 905]], k=3), small.recommend([["901", "905"]], k=3)
    assert by_number == by_text
    assert all(type(item) is int and item >= 900 for item, _ in by_number[0])
