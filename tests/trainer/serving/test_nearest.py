"""The approximate index: what it holds, and that its recall is told as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.serving import export, nearest


class Fixed:
    """An index that always answers the same."""

    def __init__(self, found: list[list[int]]) -> None:
        self.found = np.array(found)

    def search(self, vectors: np.ndarray, k: int) -> tuple[None, np.ndarray]:
        return None, self.found[:, :k]


def test_recall_is_the_share_of_the_exact_best() -> None:
    embeddings = np.eye(6, dtype=np.float32)
    vectors = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]], np.float32)
    assert nearest.recall(Fixed([[0, 1, 2], [5, 4, 3]]), embeddings, vectors, 3) == 1
    assert nearest.recall(Fixed([[2, 0, 5], [0, 1, -1]]), embeddings, vectors, 3) == pytest.approx(2 / 6)


def test_the_index_of_an_export(
    one_rank: dict[str, Path], cache: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    faiss = pytest.importorskip("faiss")
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    assert export.main([str(one_rank["whole"]), "--out", str(tmp_path / "export"), "--index", "faiss"]) == 0
    assert "items.faiss: recall 1.0000 of the exact best 20 videos of 400 users" in capsys.readouterr().out
    index = faiss.read_index(str(tmp_path / "export" / "items.faiss"))
    embeddings = np.load(tmp_path / "export" / "item_embeddings.npy")
    assert index.ntotal == len(embeddings) == 120
    vectors = np.random.default_rng(0).normal(size=(50, embeddings.shape[1])).astype(np.float32)
    vectors[:, -1] = 1  # which users' vectors have for the bias
    _, found = index.search(vectors, 1)
    assert np.mean(found[:, 0] == (vectors @ embeddings.T).argmax(1)) > 0.95


def test_faiss_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--index faiss needs faiss: pip install"):
        nearest.refuse_missing()
