"""The exported graph gives the vectors from which the recommender ranks, for any number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.serving.exports import LENGTH, TEXT_IDS, VIDEOS, write_export
from trainer.errors import UserError
from trainer.serving import Recommender, graph

HISTORIES = [
    [(row * 5 + step) % VIDEOS + 1 for step in range(1 + row)] for row in range(9)
]  # up to LENGTH + 3


@pytest.fixture(scope="module", params=[True, False], ids=["frames", "ids"])
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(write_export(tmp_path_factory.mktemp("graph") / "export", video=request.param))


def inputs_of(recommender: Recommender, histories: list[list[int]]) -> dict[str, torch.Tensor]:
    """What a program would make by hand: histories padded to `max_length`, and the frames of their videos."""
    item = torch.zeros(len(histories), LENGTH).long()
    for row, history in enumerate(histories):
        item[row, : len(history[-LENGTH:])] = torch.tensor(history[-LENGTH:])
    offset = torch.tensor([max(0, len(history) - LENGTH) for history in histories])
    inputs = {"item": item, "offset": offset}
    if recommender.source.table is not None:
        table = recommender.source.table
        inputs["features"] = torch.from_numpy(np.array(table.features))  # of all videos: row j is video j
        inputs["frames"], inputs["feature_row"] = torch.from_numpy(table.frames), item
    return inputs


def check(recommender: Recommender, histories: list[list[int]], vectors: np.ndarray) -> None:
    scores = vectors @ recommender.embeddings.T
    for row, history in enumerate(histories):
        scores[row, np.array(history) - 1] = -np.inf
    named = [[TEXT_IDS[number - 1].item() for number in history] for history in histories]
    for row, best in zip(np.argsort(-scores, axis=1), recommender.recommend(named, k=8), strict=True):
        assert TEXT_IDS[row[:8]].tolist() == [item for item, _ in best]


def test_torch_export(recommender: Recommender, tmp_path: Path) -> None:
    graph.write(recommender, "torch", tmp_path)
    program = torch.export.load(tmp_path / "user_vector.pt2")
    assert not [node for node in program.graph.nodes if "mealrec" in str(node.target)]  # runs anywhere
    for rows in (1, 2, len(HISTORIES)):
        histories = HISTORIES[-rows:]
        check(
            recommender,
            histories,
            program.module()(*inputs_of(recommender, histories).values()).detach().numpy(),
        )


@pytest.mark.slow
def test_onnx(recommender: Recommender, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph.write(recommender, "onnx", tmp_path)
    session = runtime.InferenceSession(tmp_path / "user_vector.onnx")
    for rows in (1, 2, len(HISTORIES)):
        histories = HISTORIES[-rows:]
        inputs = {name: tensor.numpy() for name, tensor in inputs_of(recommender, histories).items()}
        check(recommender, histories, session.run(["vector"], inputs)[0])


def test_onnx_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--graph onnx needs onnx and onnxscript: pip install"):
        graph.refuse_missing("onnx")
    graph.refuse_missing("torch")
