"""`python -m shards check DIR`: opens every record and names every fault, then goes on to the next.

A fault that stops the reading of one file (a broken tar) is named, and the other files are still checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from shards.errors import DataError, one_line
from shards.format.files import FileEntry, checksum_fault, is_verified, mark_verified, size_fault
from shards.format.fingerprint import Fingerprint
from shards.format.index import INDEX_FILE, Features, FeatureShard, Index, SequenceShard
from shards.format.reader import decode_block, decode_video, iterate_samples
from shards.format.records import block_faults, video_faults
from shards.format.totals import LengthHistogram, Totals

T = TypeVar("T")


def check_data_set(path: str | Path) -> Iterator[str]:
    """Every fault of the data set at `path` as one line; none where it is sound.

    Raises:
        DataError: the index itself is not readable.
    """
    index = Index.load(path, check_sizes=False)
    checker = _Checker(index)
    for entry in tqdm(index.files, disable=None, unit=" files", desc="checking"):
        yield from map(one_line, checker.file(entry))
    yield from map(one_line, checker.totals_faults())


class _Checker:
    def __init__(self, index: Index):
        self.index = index
        self.sound = True  # no fault that would make totals wrong as well
        self.fingerprint = Fingerprint()
        self.totals = Totals(index.videos)
        self.last_item = 0

    def file(self, entry: FileEntry) -> Iterator[str]:
        """Faults in size, checksum and every record of one file."""
        try:
            path = self.index.local(entry)
        except DataError as error:  # a remote file that cannot be fetched
            self.sound = False
            yield str(error)
            return
        fault = size_fault(path, entry)
        if fault:
            self.sound = False
        elif not is_verified(path, entry):
            fault = checksum_fault(path, entry, in_full=True)
        if fault:
            yield f"{path}: {fault}"
        else:
            mark_verified(path, entry)
        # Tars are read in spite of a fault, as far as they go, and id files only whole.
        if fault and not (path.is_file() and isinstance(entry, SequenceShard | FeatureShard)):
            self.sound = False
            return
        try:
            for fault in self.records(path, entry):
                self.sound = False
                yield fault
        except DataError as error:
            self.sound = False
            yield str(error)

    def records(self, path: Path, entry: FileEntry) -> Iterable[str]:
        """Faults in the records of one file."""
        if isinstance(entry, SequenceShard):
            return self.sequences(path, entry)
        if isinstance(entry, FeatureShard) and self.index.features is not None:
            return self.features(path, entry, self.index.features)
        if entry in (self.index.items_file, self.index.users_file):
            return self.ids(path, of_items=entry == self.index.items_file)
        return ()

    def ids(self, path: Path, of_items: bool) -> Iterator[str]:
        """Ids are there, of the right type, none twice."""
        values = self.index.item_ids() if of_items else self.index.user_ids()
        self.fingerprint.ids("item_ids" if of_items else "user_ids", values)
        distinct = len(np.unique(values) if isinstance(values, np.ndarray) else set(values))
        if distinct != len(values):
            yield f"{path}: column id: found {len(values) - distinct} repeated ids, expected each once"

    def sequences(self, path: Path, entry: SequenceShard) -> Iterator[str]:
        """Faults in the blocks of a sequence shard."""
        user = entry.first_user
        lengths = LengthHistogram()
        for sample in iterate_samples(path):
            block, fault = _decode(decode_block, path, sample)
            if block is None:
                yield fault
                continue
            faults = list(block_faults(block, sample["__key__"], user, self.index.videos))
            yield from (f"{path}: {wrong}" for wrong in faults)
            user += len(block.length)
            if not faults:
                self.fingerprint.block(block)
                self.totals.add(block)
                lengths.add(block)
        if user != entry.first_user + entry.users:
            yield f"{path}: found {user - entry.first_user} users, expected {entry.users}"
        elif self.sound and lengths.pairs() != entry.train_lengths:
            yield f"{path}: train_lengths of the index differ from the records"

    def features(self, path: Path, entry: FeatureShard, shape: Features) -> Iterator[str]:
        """Faults in the videos of a feature shard."""
        videos = 0
        for sample in iterate_samples(path):
            videos += 1
            video, fault = _decode(decode_video, path, sample)
            if video is None:
                yield fault
                continue
            item, frames, count = video
            key = sample["__key__"]
            if not self.last_item < item <= self.index.videos:
                expected = f"an item row in {self.last_item + 1}..{self.index.videos}"
                yield f"{path}: record {key}, field __key__: found {item}, expected {expected}"
            self.last_item = max(item, self.last_item)
            faults = list(video_faults(frames, count, key, (shape.frames, shape.width), shape.dtype))
            yield from (f"{path}: {wrong}" for wrong in faults)
            if not faults:
                self.fingerprint.video(item, count, frames)
        if videos != entry.videos:
            yield f"{path}: found {videos} videos, expected {entry.videos}"

    def totals_faults(self) -> Iterator[str]:
        """The index against the sums over all records, only where the records themselves are sound."""
        index, totals = self.index, self.totals
        if not self.sound:
            return
        location = f"{index.path}/{INDEX_FILE}"
        listed = {"interactions": index.interactions, **asdict(index.counts)}
        for name, total in {"interactions": totals.interactions, **asdict(totals.counts)}.items():
            if listed[name] != total:
                yield f"{location}: field {name}: found {listed[name]}, expected {total}, the records' sum"
        if not np.array_equal(index.train_counts(), totals.train_counts):
            yield f"{index.local(index.items_file)}: column train_count differs from the records"
        fingerprint = self.fingerprint.hexdigest()
        if fingerprint != index.fingerprint:
            yield f"{location}: field fingerprint: found {index.fingerprint}, expected {fingerprint}"


def _decode(
    decode: Callable[[Path, dict[str, Any]], T], path: Path, sample: dict[str, Any]
) -> tuple[T | None, str]:
    """The decoded sample, or None and the fault."""
    try:
        return decode(path, sample), ""
    except DataError as error:
        return None, str(error)
