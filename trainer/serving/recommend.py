"""`python -m trainer recommend RUN --out FILE`: the best videos for every user, or for any histories."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from shards import Batch, HistoryStream, Index, file_sha256
from shards.stream.batch import page_locked
from shards.stream.prefetch import prefetch
from trainer.errors import DONE, UserError
from trainer.evaluation.run import check_videos
from trainer.serving import output, saved
from trainer.serving.catalogue import read_ids, unknown_ids
from trainer.serving.histories import STANDARD, History, peek, read_histories
from trainer.serving.output import Counts, Ranked
from trainer.serving.recommender import Recommender
from trainer.serving.titles import read_titles


@dataclass(frozen=True)
class Users:
    """Whose histories a batch holds, and what its counts are."""

    ids: np.ndarray
    counts: Counts


class Histories(Protocol):
    """Where the histories come from.

    user_type: of the ids of the users; identity: on what the histories depend, None where it is not known.
    """

    user_type: pa.DataType
    identity: dict[str, Any] | None

    def batches(self, done: int) -> Iterable[tuple[Users, Batch]]:
        """Yield the histories after the first `done` ones."""


class DataSetUsers:
    """The users of a run's data set, whole histories, in the order of the data set."""

    def __init__(self, recommender: Recommender, run: str, chosen: str | None) -> None:
        """Open the data set.

        Raises:
            UserError, DataError: it has other videos than the run, or not the users of the file `chosen`.
        """
        self._index = Index.load(recommender.source.data or "")
        check_videos(self._index, run, recommender.source.item_ids)
        self._recommender = recommender
        self._ids = np.asarray(self._index.user_ids())
        self._chosen = choose_users(chosen, self._ids)
        self.user_type = pa.int64() if self._index.user_id_type == "int64" else pa.string()
        users = hashlib.sha256(np.packbits(self._chosen).tobytes()).hexdigest()
        self.identity: dict[str, Any] | None = {"data": self._index.fingerprint, "users": users}

    def batches(self, done: int) -> Iterator[tuple[Users, Batch]]:
        """See `Histories`."""
        left = self._chosen.copy()
        left[np.flatnonzero(left)[:done]] = False
        source = self._recommender.source
        stream = HistoryStream(
            self._index,
            chosen=left,
            batch_size=source.batch_size,
            max_length=source.config.max_length,
            table=source.table,
            pin_memory=self._recommender.on_gpu,
        )
        for batch in stream:
            ids = self._ids[batch["sample_id"].numpy()]
            yield Users(ids, Counts(histories=len(ids))), batch


class FileHistories:
    """Histories in a file, or on standard input."""

    def __init__(self, recommender: Recommender, path: str, *, strict: bool) -> None:
        """Open the file.

        Raises:
            UserError, DataError: it cannot be read, or its first history is at fault.
        """
        self._recommender, self._strict = recommender, strict
        kind, self._histories = peek(read_histories(path))
        self.user_type = pa.int64() if kind is int else pa.string()
        self.identity = None if path == STANDARD else {"histories": file_sha256(path)}

    def batches(self, done: int) -> Iterator[tuple[Users, Batch]]:
        """See `Histories`."""
        left = itertools.islice(self._histories, done, None)
        size = self._recommender.source.batch_size
        batches = self._batches(iter(lambda: list(itertools.islice(left, size)), []))
        yield from prefetch(batches)

    def _batches(self, parts: Iterable[list[History]]) -> Iterator[tuple[Users, Batch]]:
        for part in parts:
            numbers = [
                self._recommender.numbers(history.items, history.place, strict=self._strict)
                for history in part
            ]
            counts = Counts(
                histories=len(part),
                unknown=sum(len(history.items) for history in part) - sum(map(len, numbers)),
                empty=sum(not known for known in numbers),
            )
            batch = self._recommender.batch(numbers)
            users = np.array([history.user for history in part], object)
            yield Users(users, counts), page_locked(batch) if self._recommender.on_gpu else batch


def main(argv: Sequence[str]) -> int:
    """Write `user, rank, item, score` with the original ids, in the order of the histories.

    Returns the exit code.

    Raises:
        UserError, DataError: a mistake in the arguments, the run, the data or the histories.
    """
    arguments = _parser().parse_args(list(argv))
    output.check_out(arguments.out)
    if arguments.histories and arguments.users:
        raise UserError("--users chooses users of the data set: leave it out with --histories")
    if not arguments.histories and saved.is_export(Path(arguments.run)):
        raise UserError(f"{arguments.run} is an export, which has no users: give --histories FILE")
    recommender = Recommender.load(arguments.run, arguments.data)
    recommender.check_top("--top", arguments.top)
    histories: Histories
    if arguments.histories:
        histories = FileHistories(recommender, arguments.histories, strict=arguments.strict)
    else:
        histories = DataSetUsers(recommender, arguments.run, arguments.users)
    hidden = _hidden(recommender, arguments)
    titles = read_titles(arguments.titles, recommender.catalogue) if arguments.titles else None
    table = _Rows(recommender.source.item_ids, titles, histories.user_type)

    def job(done: int) -> Iterator[Ranked]:
        ranked = recommender.rank(
            histories.batches(done), arguments.top, not arguments.no_mask_history, hidden
        )
        for users, scores, videos in ranked:
            yield Ranked(table.of(users.ids, scores, videos), users.counts)

    identity = None
    if histories.identity is not None and recommender.source.weights_sha256 is not None:
        identity = {
            **histories.identity,
            "weights": recommender.source.weights_sha256,
            "top": arguments.top,
            "mask_history": not arguments.no_mask_history,
            "hidden": None if hidden is None else hashlib.sha256(hidden.tobytes()).hexdigest(),
            "titles": file_sha256(arguments.titles) if arguments.titles else None,
        }
    counts = output.write(arguments.out, table.schema, job, identity)
    _report(arguments, counts)
    return DONE


def choose_users(file: str | None, user_ids: np.ndarray) -> np.ndarray:
    """Return whom to recommend to, bool [users].

    Raises:
        UserError: an id that the data set does not have.
    """
    if file is None:
        return np.ones(len(user_ids), dtype=bool)
    wanted = set(read_ids("--users", file))
    known = np.array([str(original) for original in user_ids.tolist()])
    chosen = np.isin(known, list(wanted))
    unknown = sorted(wanted - set(known[chosen]))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(f"--users {file}: the data set has no user {unknown[0]!r}{more}")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer recommend",
        description="The best videos by the best weights of a run, or by an export: for every user of the"
        " run's data set by the user's whole history, or for the histories of a file.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory, or an export")
    parser.add_argument(
        "--histories",
        metavar="FILE",
        help="histories of original ids, oldest first, with the columns `user` and `history`:"
        " a .parquet, .csv or .jsonl file, or - for JSON lines on standard input",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="a new .parquet, .csv or .jsonl file, or - for JSON lines on standard output",
    )
    parser.add_argument("--top", type=int, default=20, metavar="K", help="videos a user (default: 20)")
    parser.add_argument("--users", metavar="FILE", help="only these users: original ids, one a line")
    parser.add_argument("--allow", metavar="FILE", help="only these videos: original ids, one a line")
    parser.add_argument("--deny", metavar="FILE", help="none of these videos: original ids, one a line")
    parser.add_argument(
        "--titles", metavar="FILE", help="a .csv or .parquet file with the columns `item` and `title`"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse unknown ids in histories, --allow and --deny"
    )
    parser.add_argument("--data", metavar="DIR", help="data set of the run (default: the run's own)")
    parser.add_argument(
        "--no-mask-history", action="store_true", help="recommend videos that the user has seen, too"
    )
    return parser


def _hidden(recommender: Recommender, arguments: argparse.Namespace) -> np.ndarray | None:
    lists: dict[str, list[str] | None] = {"--allow": None, "--deny": None}
    for option, file in (("--allow", arguments.allow), ("--deny", arguments.deny)):
        if file:
            ids = lists[option] = read_ids(option, file)
            unknown = unknown_ids(recommender.catalogue, ids)
            if unknown and arguments.strict:
                raise UserError(f"{option} {file}: the model knows no video {unknown[0]!r}")
            if unknown:
                print(f"{option} {file}: {len(unknown)} of {len(ids)} ids are unknown", file=sys.stderr)
    return recommender.catalogue.hidden(lists["--allow"], lists["--deny"])


class _Rows:
    """The long form of recommendations; places without a video to recommend are left out."""

    def __init__(self, item_ids: np.ndarray, titles: np.ndarray | None, user_type: pa.DataType) -> None:
        self._item_ids, self._titles = item_ids, titles
        kinds = {
            "user": user_type,
            "rank": pa.int32(),
            "item": pa.int64() if item_ids.dtype.kind == "i" else pa.string(),
            "score": pa.float32(),
        }
        self.schema = pa.schema(kinds if titles is None else {**kinds, "title": pa.string()})

    def of(self, users: np.ndarray, scores: torch.Tensor, videos: torch.Tensor) -> pa.Table:
        """The rows of a batch: users [B], scores and numbers of videos [B, K]."""
        rows, top = scores.shape
        real = torch.isfinite(scores).flatten().numpy()
        place = videos.flatten().numpy()[real] - 1
        columns = {
            "user": np.repeat(users, top)[real],
            "rank": np.tile(np.arange(1, top + 1, dtype=np.int32), rows)[real],
            "item": self._item_ids[place],
            "score": scores.flatten().numpy()[real],
        }
        if self._titles is not None:
            columns["title"] = self._titles[place]
        return pa.table(columns, self.schema)


def _report(arguments: argparse.Namespace, counts: Counts) -> None:
    to_stdout = arguments.out == STANDARD
    whose = "histories" if arguments.histories else "users"
    line = f"wrote {arguments.out}: the best {arguments.top} videos of {counts.histories} {whose}"
    if counts.unknown:
        line += f"; unknown ids skipped: {counts.unknown}"
    if counts.empty:
        line += f"; histories without a known video, which have no rows: {counts.empty}"
    print(line, file=sys.stderr if to_stdout else sys.stdout)
