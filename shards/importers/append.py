"""Adds new events to a data set: a new data set, made of the old one without importing the whole log again.

    rows     users and videos keep theirs; new ones follow in the order of their ids
    events   those of a user are in the order of their times, whenever they came; of equal times, older ones
             first. Events that are there already (same user, item and time) are left out. Without times, new
             events follow old ones
    split    drawn again for users with new events
    shards   those with changes are written again, and the last ones where users or videos follow; all others
             are linked into the new data set, or copied where the file system has no links

All of the old data set is read once: for its checksums and for the fingerprint of the new one. Memory is as
for an import (`pipeline`), with one sequence shard beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from shards.errors import DataError
from shards.format.columns import Ids
from shards.format.index import Features, Index
from shards.format.reader import read_feature_shard, read_sequence_shard
from shards.format.records import Block
from shards.format.writer import (
    BLOCK_USERS,
    FEATURE_SHARD_BYTES,
    SHARD_BLOCKS,
    DataSetWriter,
    refuse_existing,
)
from shards.importers.features import FeatureSource, open_features
from shards.importers.new_videos import check_new_videos, with_new_videos
from shards.importers.source import Source
from shards.importers.splits import Split, time_unit
from shards.importers.store import Store, is_integer, plain, sorted_log

SHARD_USERS = BLOCK_USERS * SHARD_BLOCKS


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    out: Path
    features: Path | None = None
    feature_ids: str | None = None
    feature_frames: int = 0
    new_videos: Path | None = None
    memory: str = "2GB"
    spill: Path | None = None


@dataclass(frozen=True)
class Appended:
    """The new data set, and how it differs from the old one.

    changed_users  known ones with new events
    late_events    new events that are older than the newest known one of their user
    written, kept  shards
    """

    index: Index
    new_users: int
    changed_users: int
    new_videos: int
    late_events: int
    written: int
    kept: int


def append(data: str, source: Source, options: Options) -> Appended:
    """Write the data set at `data` with the events of `source` to `options.out`.

    Features are taken for new videos alone; known ones keep theirs.

    Raises:
        DataError: at the first fault; nothing is left behind.
    """
    refuse_existing(options.out)
    old = Index.load(data)
    kind = old.split["kind"]
    if kind not in ("leave-one-out", "none"):
        raise DataError(f"{data}: found split {kind}, expected leave-one-out or none; import the whole log")
    if source.has_parts:
        raise DataError(f"--columns split=..: the split of {data} is {kind}; leave it out")
    if options.features and not old.features:
        raise DataError(
            f"--features: {data} has none; give all its videos features by attach, before or after"
        )
    check_new_videos(options.new_videos, options.features)
    for role, known in (("user", old.user_id_type), ("item", old.item_id_type)):
        source.id_types.pop(role, None)
        if known == "string":
            source.id_types[role] = known
    with sorted_log(source, memory=options.memory, out=options.out, spill=options.spill) as store:
        return _Append(old, store, options).run()


class _Events(NamedTuple):
    """New events in the order of their users' rows and their times: int arrays of one length."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray


class _Append:
    """One append, from the sorted log to the data set."""

    def __init__(self, old: Index, store: Store, options: Options):
        self.old, self.store, self.options = old, store, options
        self.drops = store.drops | {"events_already_there": 0}
        self.split = Split(old.split["kind"])
        described = old.source.get("options")
        self.described: dict[str, Any] = described if isinstance(described, dict) else {}
        longest = self.described.get("max_length", 0)
        self.max_length = longest if isinstance(longest, int) else 0
        if self.max_length > 0:
            self.drops["events_beyond_max_length"] = 0
        self.changed_users = self.late_events = self.kept = 0

    def run(self) -> Appended:
        old, store = self.old, self.store
        users, items = old.user_ids(), old.item_ids()
        new_users, new_items = self.place("user", users, 0), self.place("item", items, 1)
        store.query(
            "CREATE TABLE placed AS SELECT users_at.row AS u, items_at.row AS i, log.t AS t "
            "FROM log JOIN users_at ON log.u = users_at.number JOIN items_at ON log.i = items_at.number "
            "ORDER BY users_at.row, log.rowid"
        )
        item_ids = with_new_videos(_joined(items, new_items), self.options.new_videos)
        features = self.open_features(item_ids)
        with DataSetWriter(
            self.options.out,
            name=old.name,
            item_ids=item_ids,
            user_type=old.user_id_type,
            split=old.split,
            features=features.shape if features else old.features,
        ) as writer:
            self.write_known_users(writer, users, followed=len(new_users) > 0)
            self.write_new_users(writer, new_users)
            self.write_videos(writer, features)
            index = writer.commit(self.description())
        return Appended(
            index,
            new_users=len(new_users),
            changed_users=self.changed_users,
            new_videos=len(item_ids) - len(items),
            late_events=self.late_events,
            written=len(index.sequence_shards) + len(index.feature_shards) - self.kept,
            kept=self.kept,
        )

    def place(self, role: str, known: Ids, base: int) -> Ids:
        """Table `role`s_at: the row of each id of the log, from `base` on. Returns the ids that are new."""
        store, connection = self.store, self.store.connection
        if isinstance(known, np.ndarray) and store.types[role] == "string":
            sql = f"SELECT text FROM {role}s WHERE NOT {is_integer('text')} ORDER BY rowid LIMIT 1"
            found = store.query(sql)[0]
            raise DataError(
                f"{store.source.files[0]}: found the {role} id {found!r:.60}, expected a whole number as in "
                f"{self.old.path}"
            )
        text = pa.array(known).cast(pa.string())
        connection.register("known", pa.table({"text": text, "row": np.arange(base, base + len(known))}))
        store.query(
            f"CREATE TABLE {role}s_at AS SELECT log.rowid AS number, known.row AS row "
            f"FROM {role}s AS log JOIN known ON log.text = known.text"
        )
        unknown = f"FROM {role}s AS log ANTI JOIN known ON log.text = known.text"
        order = "row_number() OVER (ORDER BY log.rowid)"
        first_new = base + len(known)
        store.query(f"INSERT INTO {role}s_at SELECT log.rowid, {first_new - 1} + {order} {unknown}")
        new = connection.sql(f"SELECT log.id AS id {unknown} ORDER BY log.rowid").to_arrow_table()
        connection.unregister("known")
        return plain(new.column("id").combine_chunks())

    def events(self, first: int, stop: int) -> _Events:
        """The new events of the users in rows `first:stop`."""
        cursor = self.store.connection.cursor()
        columns = cursor.execute(f"SELECT u, i, t FROM placed WHERE u >= {first} AND u < {stop}").fetchnumpy()
        return _Events(*(np.asarray(columns[name]) for name in "uit"))

    def write_known_users(self, writer: DataSetWriter, ids: Ids, *, followed: bool) -> None:
        """Every known user; `followed`: new ones come after them, and fill the last shard up.

        Raises:
            DataError: the times of log and data set are of different kinds, or no event is new.
        """
        latest, timed = 0, False
        self.store.start_stage("known users", self.old.users)
        for number, entry in enumerate(self.old.sequence_shards, start=1):
            block = read_sequence_shard(self.old, entry)
            latest, timed = max(latest, int(block.time.max())), timed or bool(block.time.any())
            stop = entry.first_user + entry.users
            merged, changed = self.merge(block, self.events(entry.first_user, stop))
            of_shard = ids[entry.first_user : stop]
            open_end = followed and number == len(self.old.sequence_shards) and entry.users < SHARD_USERS
            if changed or open_end:
                writer.add_users(of_shard, merged.length, merged.item, merged.time, merged.boundary)
            else:
                writer.keep_users(of_shard, block, self.old.local(entry), entry)
                self.kept += 1
            self.changed_users += changed
            self.store.bar.update(entry.users)
        self.check_times(latest, timed)
        if not (self.changed_users or followed):
            raise DataError(f"{self.store.source.files[0]}: {self.old.path} has all of its events already")

    def check_times(self, latest: int, timed: bool) -> None:
        """Raise DataError unless log and data set, whose `latest` time this is, have times of one unit."""
        source, path = self.store.source, self.old.path
        if timed != source.timed:
            found, expected = ("no times", "times") if timed else ("times", "no times")
            raise DataError(f"{source.files[0]}: found {found}, expected {expected}, as in {path}")
        if timed:
            found, expected = time_unit(self.store.query("SELECT max(t) FROM log")[0]), time_unit(latest)
            if found != expected:
                raise DataError(
                    f"{source.files[0]}: found times in {found}, expected {expected}, as in {path}"
                )

    def write_new_users(self, writer: DataSetWriter, ids: Ids) -> None:
        """Every new user."""
        first, stop = self.old.users, self.old.users + len(ids)
        for start in range(first, stop, SHARD_USERS):
            user = np.arange(start, min(start + SHARD_USERS, stop))
            nothing = np.zeros(0, np.int64)
            nobody = Block(
                user, np.zeros(len(user), np.int64), nothing, nothing, np.zeros((len(user), 2), int)
            )
            block, _ = self.merge(nobody, self.events(start, start + len(user)))
            of_batch = ids[start - first : start - first + len(user)]
            writer.add_users(of_batch, block.length, block.item, block.time, block.boundary)

    def merge(self, block: Block, new: _Events) -> tuple[Block, int]:
        """Users with their new events, and how many have any."""
        first = int(block.user[0])
        old_user = np.repeat(np.arange(len(block.user)), block.length)
        new = _Events(new.user - first, new.item, new.time)
        if self.store.source.timed:
            there = _already_there(_Events(old_user, block.item, block.time), new)
            self.drops["events_already_there"] += int(there.sum())
            new = _Events(*(column[~there] for column in new))
        changed = np.bincount(new.user, minlength=len(block.user)) > 0
        if not changed.any():
            return block, 0
        newest = np.full(len(block.user), np.iinfo(np.int64).min)
        np.maximum.at(newest, old_user, block.time)
        self.late_events += int((new.time < newest[new.user]).sum())

        user, item, time = (
            np.concatenate(pair) for pair in zip((old_user, block.item, block.time), new, strict=True)
        )
        order = np.lexsort((np.where(changed[user], time, 0), user))  # stable: of equal times, old ones first
        length = block.length + np.bincount(new.user, minlength=len(block.user))
        if self.max_length > 0:
            from_end = np.repeat(np.cumsum(length), length) - np.arange(len(order))
            cut = changed[user[order]] & (from_end > self.max_length)
            self.drops["events_beyond_max_length"] += int(cut.sum())
            order = order[~cut]
            length = np.bincount(user[order], minlength=len(length))
        boundary = np.where(changed[:, None], self.split.boundary(length, None), block.boundary)
        return Block(block.user, length, item[order], time[order], boundary), int(changed.sum())

    def open_features(self, item_ids: Ids) -> FeatureSource | None:
        """The features of new videos, of a shape that holds known videos', too; None where there are none."""
        options, old = self.options, self.old.features
        if options.features is None or old is None:
            return None
        features = open_features(
            options.features,
            item_ids,
            ids=options.feature_ids,
            frames=options.feature_frames,
            scratch=self.store.folder,
        )
        if features.shape.width != old.width:
            widths = f"found width {features.shape.width}, expected {old.width}"
            raise DataError(f"{options.features}: {widths}, as in {self.old.path}")
        frames = max(features.shape.frames, old.frames)
        half = features.shape.dtype == old.dtype == "float16"
        features.shape = Features(frames, old.width, "float16" if half else "float32")
        new = [row for row in features.rows if row > self.old.videos]
        features.counts |= {
            "features_of_known_videos": len(features.rows) - len(new),
            "videos_missing_in_features": len(item_ids) - self.old.videos - len(new),
        }
        features.rows = new
        return features

    def write_videos(self, writer: DataSetWriter, features: FeatureSource | None) -> None:
        """The features of known videos, then those of new ones, which fill the last shard up."""
        old, shape = self.old, writer.features
        if old.features is None or shape is None:
            return
        fits = (shape.frames, shape.dtype) == (old.frames, old.features.dtype)
        followed = features is not None and len(features.rows) > 0
        self.store.start_stage("features", old.features.videos_with_features)
        for number, entry in enumerate(old.feature_shards, start=1):
            open_end = followed and number == len(old.feature_shards) and entry.bytes < FEATURE_SHARD_BYTES
            videos = _counted(read_feature_shard(old, entry), self.store.bar)
            if fits and not open_end:
                writer.keep_videos(videos, old.local(entry), entry)
                self.kept += 1
                continue
            for row, frames, count in videos:
                padded = np.zeros((shape.frames, shape.width), shape.dtype)
                padded[: len(frames)] = frames
                writer.add_video(row, padded, count)
        if features is not None:
            for row, frames, count in features.videos():
                writer.add_video(row, frames, count)
            self.drops |= features.counts

    def description(self) -> dict[str, Any]:
        """How the data set was made, for the index."""
        source, features = self.store.source, self.options.features
        return {
            "importer": "append",
            "parent": self.old.fingerprint,
            "files": [file.name for file in source.files],
            "features": features.name if features else None,
            "options": {**self.described, **source.options},
            "drops": self.drops,
        }


def _already_there(old: _Events, new: _Events) -> np.ndarray:
    """Which new events are among the old ones: bool by new event. The new ones differ from each other."""
    user, item, time = (np.concatenate(pair) for pair in zip(old, new, strict=True))
    is_new = np.arange(len(user)) >= len(old.user)
    order = np.lexsort((is_new, time, item, user))
    same = is_new[order[1:]]
    for column in (user, item, time):
        same = same & (column[order[1:]] == column[order[:-1]])
    there = np.zeros(len(user), bool)
    there[order[1:]] = same
    return there[len(old.user) :]


def _joined(known: Ids, new: Ids) -> Ids:
    """Known ids and new ones of the same type."""
    return np.concatenate([known, new]) if isinstance(known, np.ndarray) else [*known, *new]


def _counted(
    videos: Iterator[tuple[int, np.ndarray, int]], bar: tqdm[Any]
) -> Iterator[tuple[int, np.ndarray, int]]:
    """The videos, counted by the progress bar."""
    for video in videos:
        yield video
        bar.update(1)
