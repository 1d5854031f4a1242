"""An index of the videos' embeddings for approximate search, and what it misses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mealrec import ranking
from trainer.errors import UserError

FILE = "items.faiss"
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 128
"""Of the graph (HNSW): neighbours of a video, and candidates kept when it is built and searched."""
TOP = 20


def refuse_missing() -> None:
    """Check that Faiss is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("faiss") is None:
        raise UserError("--index faiss needs faiss: pip install 'mealrec[export]'")


def build(embeddings: np.ndarray) -> Any:
    """Return an index of embeddings float32 [I, D] by inner product; row j is video j+1."""
    import faiss

    index = faiss.IndexHNSWFlat(embeddings.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_WIDTH, SEARCH_WIDTH
    index.add(embeddings)
    return index


def write(index: Any, folder: Path) -> None:
    """Write the index into a folder."""
    import faiss

    faiss.write_index(index, str(folder / FILE))


def recall(index: Any, embeddings: np.ndarray, vectors: np.ndarray, k: int = TOP) -> float:
    """Return which share of the exact best `k` videos of users the index finds, vectors float32 [N, D]."""
    k = min(k, len(embeddings))
    _, exact = ranking.top(torch.from_numpy(vectors), torch.from_numpy(embeddings), k)
    _, found = index.search(vectors, k)
    hits = [len(np.intersect1d(a, b)) for a, b in zip(exact.numpy() - 1, found, strict=True)]
    return float(np.mean(hits)) / k
