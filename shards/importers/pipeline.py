"""The pipeline that every importer shares: a log of any size becomes a data set within bounded memory.

    read    judge every row; malformed ones stop the import, those that are not positive are counted and left
            out
    sort    ids become numbers; exact duplicates (same user, item and time) are dropped; users together, each
            by time, ties in the order of the source
    limit   k-core (users and items with k events or more, repeated until stable), then users with fewer than
            `min_length` events are dropped, then all but each user's newest `max_length` events
    split   boundaries; under `time` and `given`, users with fewer than 3 events keep only their training part
    write   users and items in the order of their original ids, then videos that nobody has watched yet

Memory: DuckDB reads, joins and sorts within `memory` (2 GB by default) and spills the rest to disk, about 60
bytes per event. NumPy then goes over the sorted events in batches; it holds about 60 bytes per distinct user
and 100 per distinct item, and the text of string ids. So the bound is `memory` + 0.4 GB + 60 bytes per user +
100 per item. Measured as peak resident memory, k-core 5, string video ids:
    20 M events, 2.0 M users, 0.26 M videos, --memory 1GB   1.34 GB,  51 core-seconds
    100 M events, 8.0 M users, 0.43 M videos, --memory 2GB  2.44 GB, 305 core-seconds, 5.9 GB spilled
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DataError
from shards.format.index import Index
from shards.format.splits import MIN_EVALUATED
from shards.format.writer import DataSetWriter, refuse_existing
from shards.importers.features import open_features
from shards.importers.fields import PARTS
from shards.importers.new_videos import check_new_videos, with_new_videos
from shards.importers.source import Source
from shards.importers.splits import Split, parse_split, time_split
from shards.importers.store import Store, plain, sorted_log


@dataclass(frozen=True)
class Options:
    """What the command line says for every importer."""

    out: Path
    name: str | None = None
    split: str = "leave-one-out"
    k_core: int = 0
    min_length: int = 1
    max_length: int = 0
    features: Path | None = None
    feature_ids: str | None = None
    feature_frames: int = 0
    new_videos: Path | None = None
    memory: str = "2GB"
    spill: Path | None = None


def import_log(source: Source, options: Options) -> Index:
    """Import `source` to `options.out` and return the index.

    Raises:
        DataError: at the first fault; nothing is left behind.
    """
    refuse_existing(options.out)
    parse_split(options.split)
    check_new_videos(options.new_videos, options.features)
    with sorted_log(source, memory=options.memory, out=options.out, spill=options.spill) as store:
        return _Import(store, options).run()


@dataclass(frozen=True)
class _Sequences:
    """What remains of n users.

    user [n], item [sum length]  by number
    time [sum length]
    length [n], boundary [n, 2]  as in `records.Block`
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    length: np.ndarray
    boundary: np.ndarray


class _Import:
    """One import, from the sorted log to the data set."""

    def __init__(self, store: Store, options: Options):
        self.store, self.options = store, options
        self.source, self.drops = store.source, store.drops

    def run(self) -> Index:
        users, items = self.limit()
        split = self.split()
        used = np.zeros(len(items), bool)
        for sequences in self.sequences(users, items, split):
            used[sequences.item] = True
        return self.write(users, items, used, split)

    def limit(self) -> tuple[np.ndarray, np.ndarray]:
        """Which users and items remain after k-core and `min_length`: bool by number."""
        sizes, events = self.store.sizes, self.store.events
        users, items = (np.ones(sizes[role], bool) for role in ("user", "item"))
        k, least = self.options.k_core, self.options.min_length
        rounds = 0
        while k > 1:
            rounds += 1
            of_user, of_item = self.count(users, items, f"k-core, round {rounds}")
            fewer_users, fewer_items = users & (of_user >= k), items & (of_item >= k)
            if (fewer_users == users).all() and (fewer_items == items).all():
                break
            users, items = fewer_users, fewer_items
        of_user, _ = self.count(users, items, "counting")
        if k > 1:
            self.drops |= {
                "k_core_users": sizes["user"] - int(users.sum()),
                "k_core_items": sizes["item"] - int(items.sum()),
                "k_core_events": events - int(of_user.sum()),
            }
        short = users & (of_user < least)
        if least > 1:
            self.drops |= {"too_short_users": int(short.sum()), "too_short_events": int(of_user[short].sum())}
        users &= ~short
        if not users.any():
            limits = f"k-core {k}, minimum length {least}"
            raise DataError(
                f"{self.source.files[0]}: no user is left after {limits}; the log has {events} events"
            )
        return users, items

    def count(self, users: np.ndarray, items: np.ndarray, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """Events of each user and item among the remaining."""
        of_user, of_item = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
        for events in self.store.batches(stage):
            kept = users[events.user] & items[events.item]
            np.add.at(of_user, events.user[kept], 1)
            np.add.at(of_item, events.item[kept], 1)
        return of_user, of_item

    def split(self) -> Split:
        """The split that the options ask for, fitted to the log."""
        kind, dates = parse_split(self.options.split)
        if kind == "time":
            if not self.source.timed:
                raise DataError(f"{self.source.files[0]}: --split time: the source has no times")
            return time_split(dates, *self.store.query("SELECT min(t), max(t) FROM log"))
        if kind == "given":
            if not self.source.has_parts:
                raise DataError("--split given: needs a table with a split column (--columns ...,split=NAME)")
            self.check_given()
        return Split(kind)

    def check_given(self) -> None:
        """Raise DataError where a user's parts go backwards."""
        for events in self.store.batches("checking the split"):
            back = np.flatnonzero((np.diff(events.part) < 0) & (np.diff(events.user) == 0))
            if len(back):
                first = back[0]
                user = self.store.query(f"SELECT text FROM users WHERE rowid = {events.user[first]}")[0]
                order = f"{PARTS[events.part[first + 1]]} after {PARTS[events.part[first]]}"
                raise DataError(
                    f"{self.source.files[0]}: user {user}: found {order}, expected train, valid, test in time"
                )

    def sequences(self, users: np.ndarray, items: np.ndarray, split: Split) -> Iterator[_Sequences]:
        """What remains of the log, in batches. Counts its drops at the end."""
        cut = dropped = without_training = 0
        longest = self.options.max_length
        for events in self.store.batches("cutting"):
            events = events.where(users[events.user] & items[events.item])
            if longest:
                length = _runs(events.user)
                from_end = np.repeat(np.cumsum(length), length) - np.arange(len(events.user))
                kept = from_end <= longest
                cut += int((~kept).sum())
                events = events.where(kept)
            part = None
            if split.kind in ("time", "given"):
                part = split.parts(events.time, events.part)
                length = _runs(events.user)
                kept = (np.repeat(length, length) >= MIN_EVALUATED) | (part == 0)
                dropped += int((~kept).sum())
                events, part = events.where(kept), part[kept]
                without_training += len(length) - len(_runs(events.user))
            length = _runs(events.user)
            boundary = split.boundary(length, part)
            short = length < MIN_EVALUATED
            boundary[short] = length[short, None]
            yield _Sequences(events.user[np.cumsum(length) - 1], events.item, events.time, length, boundary)
        if longest:
            self.drops["events_beyond_max_length"] = cut
        if split.kind in ("time", "given"):
            self.drops |= {
                "held_out_events_of_short_users": dropped,
                "users_without_training_events": without_training,
            }

    def write(self, users: np.ndarray, items: np.ndarray, used: np.ndarray, split: Split) -> Index:
        """The data set of what remains; `used` are the items that occur in it."""
        options = self.options
        item_ids = with_new_videos(plain(self.store.ids("item").filter(used)), options.new_videos)
        user_ids = self.store.ids("user")  # stay in Arrow: text takes less memory there
        row = np.cumsum(used)  # item row, from 1
        features = None
        if options.features:
            features = open_features(
                options.features,
                item_ids,
                ids=options.feature_ids,
                frames=options.feature_frames,
                scratch=self.store.folder,
            )
        with DataSetWriter(
            options.out,
            name=options.name or f"{self.source.name}-{self.source.files[0].name.partition('.')[0]}",
            item_ids=item_ids,
            user_type=self.store.types["user"],
            split=split.description(),
            features=features.shape if features else None,
        ) as writer:
            for sequences in self.sequences(users, items, split):
                writer.add_users(
                    plain(user_ids.take(sequences.user)),
                    sequences.length,
                    row[sequences.item],
                    sequences.time,
                    sequences.boundary,
                )
            if features:
                self.store.start_stage("features", len(item_ids))
                for number, frames, count in features.videos():
                    writer.add_video(number, frames, count)
                    self.store.bar.update(1)
                self.drops |= features.counts
            return writer.commit(self.description())

    def description(self) -> dict[str, Any]:
        """How the data set was made, for the index; no absolute paths, so the bytes are the same anywhere."""
        options = self.options
        limits = {
            "k_core": options.k_core,
            "min_length": options.min_length,
            "max_length": options.max_length,
        }
        return {
            "importer": self.source.name,
            "files": [file.name for file in self.source.files],
            "features": options.features.name if options.features else None,
            "options": {**self.source.options, "split": options.split, **limits},
            "drops": self.drops,
        }


def _runs(values: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal values."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.diff(np.flatnonzero(np.diff(values, append=values[-1] + 1)) + 1, prepend=0)
