"""`python -m trainer recommend RUN --out FILE`: the best videos for every user."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv, parquet

from trainer import files
from trainer.errors import DONE, UserError
from trainer.evaluation.run import open_inputs, open_run, single_world


def main(argv: Sequence[str]) -> int:
    """Write `user, rank, item, score` with the original ids, users in the order of the data set.

    Returns the exit code.

    Raises:
        UserError, DataError: a mistake in the arguments, the run or the data.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainer recommend",
        description="The best videos for every user, by a run's best weights and the user's whole history.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="a .parquet or .csv file that does not exist yet"
    )
    parser.add_argument("--top", type=int, default=20, metavar="K", help="videos a user (default: 20)")
    parser.add_argument("--users", metavar="FILE", help="only these users: original ids, one a line")
    parser.add_argument("--data", metavar="DIR", help="data set (default: the run's own)")
    parser.add_argument(
        "--no-mask-history", action="store_true", help="recommend videos that the user has seen, too"
    )
    arguments = parser.parse_args(list(argv))
    out = Path(arguments.out)
    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out {out}: expected a name that ends in .parquet or .csv")
    if out.exists():
        raise UserError(f"--out {out} exists already")
    config, best = open_run(arguments.run, arguments.data)
    inputs = open_inputs(config, best, single_world())
    if not 1 <= arguments.top <= inputs.index.videos:
        raise UserError(
            f"--top {arguments.top}: expected 1 to {inputs.index.videos}, the videos of the data set"
        )
    user_ids, item_ids = np.asarray(inputs.index.user_ids()), np.asarray(inputs.index.item_ids())
    chosen = choose_users(arguments.users, user_ids)

    model = best.model(inputs).eval()
    try:
        with files.replacing(out) as partial, _writer(partial, out.suffix, user_ids, item_ids) as writer:
            for batch in inputs.history_stream(chosen, config.eval):
                scores, items = model(
                    inputs.on_device(batch),
                    task="top",
                    k=arguments.top,
                    mask_history=not arguments.no_mask_history,
                    sampler_steps=config.eval.test_sampler_steps,
                )
                writer.write_table(_table(batch["sample_id"], scores.cpu(), items.cpu(), user_ids, item_ids))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print(f"wrote {out}: the best {arguments.top} videos of {int(chosen.sum())} users")
    return DONE


def choose_users(file: str | None, user_ids: np.ndarray) -> np.ndarray:
    """Return whom to recommend to, bool [users].

    Raises:
        UserError: an id that the data set does not have.
    """
    if file is None:
        return np.ones(len(user_ids), dtype=bool)
    try:
        wanted = {
            line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()
        }
    except OSError as error:
        raise UserError(f"--users {file} cannot be read: {error.strerror}") from None
    known = np.array([str(original) for original in user_ids.tolist()])
    chosen = np.isin(known, list(wanted))
    unknown = sorted(wanted - set(known[chosen]))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(f"--users {file}: the data set has no user {unknown[0]!r}{more}")
    return chosen


def _table(
    user: torch.Tensor, scores: torch.Tensor, items: torch.Tensor, user_ids: np.ndarray, item_ids: np.ndarray
) -> pa.Table:
    """Long form; places without a video to recommend (all the others were seen) are left out."""
    rows, top = scores.shape
    real = torch.isfinite(scores).flatten().numpy()
    columns = {
        "user": np.repeat(user_ids[user.numpy()], top)[real],
        "rank": np.tile(np.arange(1, top + 1, dtype=np.int32), rows)[real],
        "item": item_ids[items.flatten().numpy() - 1][real],
        "score": scores.flatten().numpy()[real],
    }
    return pa.table(columns)


def _writer(
    path: Path, suffix: str, user_ids: np.ndarray, item_ids: np.ndarray
) -> parquet.ParquetWriter | csv.CSVWriter:
    empty = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1), torch.zeros(0, 1).long()
    schema = _table(*empty, user_ids, item_ids).schema
    make = parquet.ParquetWriter if suffix == ".parquet" else csv.CSVWriter
    return make(str(path), schema)
