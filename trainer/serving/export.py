"""`python -m trainer export RUN --out DIR`: a run as files that need no run, no data set and no pickles."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from shards import HistoryStream, Index
from shards.address import shown
from shards.format.partial import PartialPath
from trainer import files, run_directory
from trainer.checkpoint_files import CheckpointFacts
from trainer.errors import DONE, UserError
from trainer.evaluation import weights
from trainer.evaluation.run import check_videos
from trainer.inputs import on_device
from trainer.serving import graph, hub, nearest, saved
from trainer.serving.card import write_card
from trainer.serving.recommender import Recommender

RECALL_USERS = 2000  # users of the data set on whom the recall of an index is measured, at most


def main(argv: Sequence[str]) -> int:
    """Write an export of a run's best weights, whole or not at all, and upload it where that is asked for.

    Returns the exit code.

    Raises:
        UserError, DataError: a mistake in the arguments, the run or the data; a hub that cannot be reached.
    """
    arguments = _parser().parse_args(list(argv))
    run, out = Path(arguments.run), Path(arguments.out)
    if out.exists():
        raise UserError(f"--out {out} exists already")
    for kind in arguments.graph:
        graph.refuse_missing(kind)
    if arguments.index:
        nearest.refuse_missing()
    if arguments.push_to_hub:
        hub.refuse_missing()
    if saved.is_export(run):
        raise UserError(f"{run} is an export already, expected a run")
    recommender = Recommender.load(run, arguments.data, [torch.device("cpu")])
    about = _about(run, recommender)
    try:
        with PartialPath(out) as partial:
            partial.make_folder()
            source = recommender.source
            saved.write(
                partial.path, about, source.state, source.item_ids, recommender.embeddings, source.table
            )
            for kind in arguments.graph:
                graph.write(recommender, kind, partial.path)
            if arguments.index:
                _write_index(recommender, arguments.run, partial.path)
            card = write_card(out.name, about, recommender, arguments.license)
            files.write_text(partial.path / saved.CARD, card)
            saved.write_checksums(partial.path)
            partial.commit()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"wrote {out}: {size:.1f} MB, {', '.join(sorted(path.name for path in out.iterdir()))}")
    if arguments.push_to_hub:
        print(f"uploaded to {hub.push(out, arguments.push_to_hub)}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer export",
        description="Write a run's best weights, its videos and all that recommending needs into one folder.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--data", metavar="DIR", help="data set of the run (default: the run's own)")
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="licence of the weights, such as apache-2.0"
    )
    parser.add_argument(
        "--graph",
        nargs="+",
        choices=[*graph.FILES],
        default=[],
        help="also the model as a graph: for torch.export.load, for ONNX runtimes, or both",
    )
    parser.add_argument(
        "--index",
        choices=["faiss"],
        help="also an index of the videos for approximate search, with its recall",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="upload the export to this repository of a model hub, a private one",
    )
    return parser


def _about(run: Path, recommender: Recommender) -> saved.About:
    source = recommender.source
    facts = CheckpointFacts.read(weights.find(run, "best"))
    step: int = facts.progress["step"]
    return saved.About(
        format="mealrec-export",
        version=saved.VERSION,
        model=asdict(source.config),
        seed=source.seed,
        sampler_steps=source.sampler_steps,
        batch_size=source.batch_size,
        data={"name": Path(shown(source.data or "unknown")).name, "fingerprint": facts.fingerprint},
        step=step,
        metrics=_metrics(run, step),
    )


def _metrics(run: Path, step: int) -> dict[str, float]:
    """The test metrics of the weights of a step; none where the run has not got so far."""
    if not run_directory.is_finished(run):
        return {}
    results = files.read_json(run / run_directory.RESULTS)
    if not isinstance(results, dict) or results.get("best_step") != step:
        return {}
    return {name: float(value) for name, value in (results.get("test") or {}).items()}


def _write_index(recommender: Recommender, run: str, folder: Path) -> None:
    """Write the index, and print its recall on users of the data set."""
    embeddings = recommender.embeddings
    index = nearest.build(embeddings)
    vectors = _user_vectors(recommender, run)
    share, k = nearest.recall(index, embeddings, vectors), min(nearest.TOP, len(embeddings))
    print(f"{nearest.FILE}: recall {share:.4f} of the exact best {k} videos of {len(vectors)} users")
    nearest.write(index, folder)


def _user_vectors(recommender: Recommender, run: str) -> np.ndarray:
    """Vectors of users spread over the data set, float32 [N, D]."""
    source = recommender.source
    index = Index.load(source.data or "")
    check_videos(index, run, source.item_ids)
    chosen = np.zeros(index.users, bool)
    chosen[np.linspace(0, index.users - 1, min(index.users, RECALL_USERS)).astype(np.int64)] = True
    stream = HistoryStream(
        index,
        chosen=chosen,
        batch_size=source.batch_size,
        max_length=source.config.max_length,
        table=source.table,
    )
    device = torch.device("cpu")
    model = source.model(device)
    with torch.no_grad():
        parts = [
            model.user_vectors(on_device(batch, device, source.seed), source.sampler_steps)
            for batch in stream
        ]
    vectors: np.ndarray = torch.cat(parts).numpy()
    return vectors
