"""The model as a graph that other programs run: from a batch of histories to a vector for each user.

Its inputs, for any number of rows B:

    item         int64 [B, L], L = `max_length`: videos 1..I, oldest first, padded with 0 on the right
    offset       int64 [B]: how many older videos a history has
    features     [U, M, V], frames int64 [U], feature_row int64 [B, L]: where the model reads frames, as in
                 `mealrec/batch.py`; U is at least 2

Its output is `vector`, float32 [B, D]: the product with a row of `item_embeddings.npy` is the score.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mealrec import Batch, MealRec
from trainer.errors import UserError
from trainer.serving.recommender import Recommender

FILES = {"torch": "user_vector.pt2", "onnx": "user_vector.onnx"}
INPUTS = ("item", "offset", "features", "frames", "feature_row")


class UserVector(nn.Module):
    """The preference of a recommender's model, with the seed and the sampler of a recommender."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        source = recommender.source
        # The fused kernels are operators that other programs do not have.
        plain = replace(source, config=replace(source.config, kernel="reference"))
        self.model: MealRec = plain.model(torch.device("cpu"))
        self.seed, self.steps = source.seed, source.sampler_steps

    def forward(
        self,
        item: torch.Tensor,
        offset: torch.Tensor,
        features: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        feature_row: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the users' vectors [B, D]."""
        batch: Batch = {
            "item": item,
            "offset": offset,
            "sample_id": torch.zeros_like(offset),
            "seed": torch.full((), self.seed, dtype=torch.int64),
            # All cells, the padding too: how many are real is known only when the graph runs.
            "real_index": torch.arange(item.numel()),
        }
        if features is not None and frames is not None and feature_row is not None:
            batch = {**batch, "features": features, "frames": frames, "feature_row": feature_row}
        return self.model.user_vectors(batch, self.steps)


def example(recommender: Recommender) -> tuple[torch.Tensor, ...]:
    """Return inputs of the graph for two histories, one of them longer than `max_length`."""
    videos, length = len(recommender.catalogue), recommender.source.config.max_length
    batch = recommender.batch([[1 + place % videos for place in range(length + 1)], [1]])
    return tuple(batch[name] for name in INPUTS if name in batch)  # type: ignore[literal-required]


def trace(recommender: Recommender) -> torch.export.ExportedProgram:
    """Return the graph, with any number of rows and of distinct videos."""
    rows, distinct = torch.export.Dim("rows"), torch.export.Dim("distinct")
    sizes = [{0: rows}, {0: rows}, {0: distinct}, {0: distinct}, {0: rows}]
    inputs = example(recommender)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the GRU's weights, which are used as they are
        return torch.export.export(
            UserVector(recommender).eval(), inputs, dynamic_shapes=tuple(sizes[: len(inputs)])
        )


def write(recommender: Recommender, kind: str, folder: Path) -> None:
    """Write the graph into a folder: `torch` for `torch.export.load`, `onnx` for ONNX runtimes."""
    program, file = trace(recommender), folder / FILES[kind]
    if kind == "torch":
        torch.export.save(program, file)
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of its own deprecated functions
        converted = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["vector"])
    assert converted is not None, "`dynamo` gives a program"
    converted.save(file)


def refuse_missing(kind: str) -> None:
    """Check that what writes this kind of graph is installed.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if kind == "onnx" and missing:
        raise UserError(f"--graph onnx needs {' and '.join(missing)}: pip install 'mealrec[export]'")
