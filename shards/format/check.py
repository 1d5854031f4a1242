"""`python -m shards check DIR`: opens every record and names every fault, then goes on to the next.

A fault that stops the reading of one file (a broken tar) is named, and the other files are still checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shards.errors import DataError
from shards.format import index as schema
from shards.format.fingerprint import Fingerprint
from shards.format.index import FeatureShard, FileEntry, Index, SequenceShard
from shards.format.reader import decode_block, decode_video, file_sha256, iterate_samples
from shards.format.records import block_faults, video_faults


def check(path: str | Path) -> Iterator[str]:
    """Every fault of the data set at `path` as one line; none where it is sound. DataError where the index
    itself is not readable."""
    index = Index.load(path, check_sizes=False)
    checker = _Checker(index)
    for entry in tqdm(index.files, disable=None, unit=" files", desc="checking"):
        yield from checker.file(entry)
    yield from checker.totals()


class _Checker:
    def __init__(self, index: Index):
        self.index = index
        self.sound = True  # no fault that would make totals wrong as well
        self.fingerprint = Fingerprint()
        self.train_counts = np.zeros(index.videos + 1, np.int64)
        self.events = 0
        self.sums = dict.fromkeys(schema.COUNTS, 0)
        self.last_item = 0

    def file(self, entry: FileEntry) -> Iterator[str]:
        """Size, checksum and every record of one file."""
        try:
            path = self.index.local(entry)
            schema.check_size(path, entry)
            found = file_sha256(path)
            if found != entry.sha256:
                yield f"{path}: wrong checksum: found sha256 {found}, expected {entry.sha256}"
        except (DataError, OSError) as error:
            self.sound = False
            yield str(error)
            path = self.index.local(entry) if not schema.is_remote(self.index.path) else None
            if path is None or not path.exists():
                return
        faults = ()
        if isinstance(entry, SequenceShard):
            faults = self.sequences(path, entry)
        elif isinstance(entry, FeatureShard):
            faults = self.features(path, entry)
        elif entry in (self.index.items_file, self.index.users_file):
            faults = self.ids(entry)
        try:
            for fault in faults:
                self.sound = False
                yield fault
        except DataError as error:
            self.sound = False
            yield str(error)

    def ids(self, entry: FileEntry) -> Iterator[str]:
        """Ids are there, of the right type, none twice."""
        of_items = entry == self.index.items_file
        values = self.index.item_ids() if of_items else self.index.user_ids()
        self.fingerprint.ids("item_ids" if of_items else "user_ids", values)
        distinct = len(np.unique(values) if isinstance(values, np.ndarray) else set(values))
        if distinct != len(values):
            twice = len(values) - distinct
            yield f"{self.index.local(entry)}: column id: found {twice} repeated ids, expected each once"

    def sequences(self, path: Path, entry: SequenceShard) -> Iterator[str]:
        user = entry.first_user
        lengths: dict[int, int] = {}
        for sample in iterate_samples(path):
            block, faults = self.decoded(decode_block, path, sample)
            yield from faults
            if block is None:
                continue
            wrong = [
                f"{path}: {fault}"
                for fault in block_faults(block, sample["__key__"], user, self.index.videos)
            ]
            yield from wrong
            user += len(block.length)
            if wrong:
                continue
            self.fingerprint.block(block)
            train_end = block.boundary[:, 0]
            for length, count in zip(*np.unique(train_end, return_counts=True), strict=True):
                lengths[int(length)] = lengths.get(int(length), 0) + int(count)
            place = np.arange(len(block.item)) - np.repeat(block.starts[:-1], block.length)
            trained = block.item[place < np.repeat(train_end, block.length)]
            self.train_counts += np.bincount(trained, minlength=self.index.videos + 1)
            valid, test = schema.evaluated(block.length, block.boundary)
            short = block.length < schema.MIN_EVALUATED
            for name, value in zip(self.sums, (train_end, valid, test, short), strict=True):
                self.sums[name] += int(value.sum())
            self.events += len(block.item)
        if user != entry.first_user + entry.users:
            yield f"{path}: found {user - entry.first_user} users, expected {entry.users}"
        elif self.sound and tuple(sorted(lengths.items())) != entry.train_lengths:
            yield f"{path}: train_lengths of the index differ from the records"

    def features(self, path: Path, entry: FeatureShard) -> Iterator[str]:
        shape = self.index.features
        held = 0
        for sample in iterate_samples(path):
            held += 1
            video, faults = self.decoded(decode_video, path, sample)
            yield from faults
            if video is None:
                continue
            item, frames, count = video
            key = sample["__key__"]
            if not self.last_item < item <= self.index.videos:
                expected = f"an item row in {self.last_item + 1}..{self.index.videos}"
                yield f"{path}: record {key}, field __key__: found {item}, expected {expected}"
            self.last_item = max(item, self.last_item)
            for fault in video_faults(frames, count, key, (shape.frames, shape.width), shape.dtype):
                yield f"{path}: {fault}"
            self.fingerprint.video(item, count, frames)
        if held != entry.videos:
            yield f"{path}: found {held} videos, expected {entry.videos}"

    def decoded(self, decode: Any, path: Path, sample: dict[str, Any]) -> tuple[Any, list[str]]:
        try:
            return decode(path, sample), []
        except DataError as error:
            return None, [str(error)]

    def totals(self) -> Iterator[str]:
        """The index against the sums over all records; only where the records are sound, else it would say it
        twice."""
        index = self.index
        if not self.sound:
            return
        place = f"{index.path}/{schema.INDEX_FILE}"
        found = {"interactions": self.events, **self.sums}
        said = {"interactions": index.interactions, **index.counts}
        for name, value in found.items():
            if said.get(name) != value:
                yield f"{place}: field {name}: found {said.get(name)}, expected {value}, the records' sum"
        if not np.array_equal(index.train_counts(), self.train_counts):
            yield f"{index.local(index.items_file)}: column train_count differs from the records"
        fingerprint = self.fingerprint.hexdigest()
        if fingerprint != index.fingerprint:
            yield f"{place}: field fingerprint: found {index.fingerprint}, expected {fingerprint}"
