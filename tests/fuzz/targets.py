"""What is fuzzed: for each kind of input, sound examples of it, and the code that reads it.

A reader may raise the errors of this project, which are a user's mistake in one line, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import DataSetWriter, Features, Index
from shards.__main__ import main
from shards.errors import DataError
from shards.format.check import check_data_set
from shards.format.columns import read_column
from shards.format.files import file_sha256
from shards.format.index import parse_index
from shards.format.npy import open_array
from shards.format.reader import decode_block, decode_video, iterate_samples
from shards.format.records import block_faults, video_faults
from shards.importers import microlens, recbole, table
from shards.importers.features import open_features
from tests.trainer.serving.exports import write_export
from trainer import options
from trainer.checkpoint_files import FACTS, CheckpointFacts
from trainer.errors import UserError
from trainer.launch.hosts import hostfile
from trainer.serving import Recommender, saved
from trainer.serving.histories import read_histories

FEATURES = Features(2, 3, "float32")
SEQUENCES, FEATURE_TAR = "sequences/sequences-000000.tar", "features/features-000000.tar"
CSV = b"user_id,item_id,timestamp,rating\n" + b"".join(
    b"%d,%d,%d,%d.5\n" % (i % 3, i % 5, 1_700_000_000 + i, i % 5) for i in range(12)
)
INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t4.5\t100\n1\t8\t3\t101.5\n"
PAIRS = b"1\t7 8 9\n2\t8 9 7 7\n3\t7\n"
YAML = b"""preset: default
seed: 3
data: {path: data/x, max_length: 50, window_stride: 0}
train:
  lr: 1e-3
  batch_size: 64
  precision: auto
  tensorboard: false
"""
TAGGED = b"""seed: !!int "3"
eval: {mask_history: !!bool yes, batch_size: &size 8, chunk: *size}
train: {lr: !!float "1", <<: {max_epochs: 2}}
preset: !!str default
"""
HOSTS = b"# two hosts\nalpha slots=4\nbeta-1.example  slots=8 # the second\n\n"


SOUND = "no fault was found"


@dataclass(frozen=True)
class Target:
    """A kind of input.

    cases: how many of the 100,000.
    seeds: makes the sound examples, in a folder.
    read: reads an input, in a folder; raises DataError or UserError where it is at fault.
    repair: makes an input pass the first check of a reader, so that others see it.
    """

    cases: int
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    repair: Callable[[bytes], bytes] = bytes


def data_set(folder: Path) -> Path:
    """A small sound data set."""
    path = folder / "sound"
    if not path.exists():
        rng = np.random.default_rng(0)
        length = rng.integers(1, 6, 12)
        with DataSetWriter(
            path, name="fuzz", item_ids=[f"v{i}" for i in range(6)], user_type="int64",
            split={"kind": "leave-one-out"}, features=FEATURES, block_users=8, shard_blocks=1,
        ) as writer:  # fmt: skip
            back = np.where(length < 3, 0, 1)
            boundary = np.stack([length - 2 * back, length - back], axis=1)
            items = rng.integers(1, 7, length.sum())
            writer.add_users(np.arange(12), length, items, np.zeros(length.sum()), boundary)
            for item in range(1, 5):
                writer.add_video(item, np.ones((2, 3), np.float32), 2)
            writer.commit({"importer": "none", "drops": {"events_read": 9}})
    return path


def _files(*names: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(data_set(folder) / name).read_bytes() for name in names]


def _written(name: str, write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    return content


def _read_sequences(content: bytes, folder: Path) -> None:
    (folder / "s.tar").write_bytes(content)
    user = 0
    for sample in iterate_samples(folder / "s.tar"):
        block = decode_block(folder / "s.tar", sample)
        for fault in block_faults(block, sample["__key__"], user, 6):
            raise DataError(str(fault))
        user += len(block.user)


def _read_features(content: bytes, folder: Path) -> None:
    (folder / "f.tar").write_bytes(content)
    for sample in iterate_samples(folder / "f.tar"):
        _, frames, count = decode_video(folder / "f.tar", sample)
        for fault in video_faults(frames, count, sample["__key__"], (2, 3), "float32"):
            raise DataError(str(fault))


def _repair_tar(content: bytes) -> bytes:
    """Right checksums in every header."""
    repaired = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            repaired[at + 148 : at + 156] = b" " * 8
            repaired[at + 148 : at + 156] = b"%06o\0 " % sum(repaired[at : at + 512])
    return bytes(repaired)


def _check(family: str, file: str) -> Callable[[bytes, Path], None]:
    """`check` and `info` of a data set of which the index lists a mutated file, with its checksum."""

    def read(content: bytes, folder: Path) -> None:
        copy = folder / "copy"
        if not copy.exists():
            shutil.copytree(data_set(folder), copy)
        sound = (data_set(folder) / "index.json").read_bytes()
        raw, target = json.loads(sound), copy / file
        before = target.read_bytes()
        try:
            target.write_bytes(content)
            entry = raw[family] if isinstance(raw[family], dict) else raw[family][0]
            entry.update(bytes=len(content), sha256=file_sha256(target))
            (copy / "index.json").write_text(json.dumps(raw))
            for _ in check_data_set(copy):
                pass
            index = Index.load(copy)
            index.train_counts(), index.item_ids(), index.user_ids()
        finally:
            target.write_bytes(before)

    return read


def _read_array(content: bytes, folder: Path) -> None:
    (folder / "a.npy").write_bytes(content)
    array = open_array(folder / "a.npy", "fiuU")
    np.asarray(array).tobytes()


def _read_archive(content: bytes, folder: Path) -> None:
    (folder / "a.npz").write_bytes(content)
    source = open_features(folder / "a.npz", np.arange(5), ids=None, frames=0, scratch=folder)
    for _ in source.videos():
        pass


def _archive(path: Path) -> None:
    np.savez_compressed(
        path, item_id=np.arange(4), features=np.ones((4, 2, 3), np.float16), length=np.full(4, 2)
    )


def _read_ids(content: bytes, folder: Path) -> None:
    (folder / "ids.parquet").write_bytes(content)
    read_column(folder / "ids.parquet", "id", 6, "string")
    read_column(folder / "ids.parquet", "train_count", 6, "int64")


def _ids(path: Path) -> None:
    columns = {"id": [f"v{i}" for i in range(6)], "train_count": pa.array(range(6), pa.int64())}
    pq.write_table(pa.table(columns), path)


def _log_parquet(path: Path) -> None:
    columns = {"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [3, 4, 5]}
    pq.write_table(pa.table(columns), path)


def _read_log(importer: object, name: str, **arguments: object) -> Callable[[bytes, Path], None]:
    """What an import does without DuckDB: header, first row, and the search for malformed lines."""

    def read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        parsed = argparse.Namespace(source=[str(folder / name)], **arguments)
        source = importer.source(parsed)  # type: ignore[attr-defined]
        try:
            source.locate(None, SOUND)
        except DataError as error:
            if SOUND not in str(error):
                raise

    return read


def _import(format: str, name: str, *arguments: str) -> Callable[[bytes, Path], None]:
    """A whole import, by its command line."""

    def read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(["import", format, str(folder / name), "--out", str(out), *arguments])
        lines = said.getvalue().strip().splitlines()
        assert code == 0 or (code == 2 and len(lines) == 1 and lines[0].startswith("error: ")), (code, lines)
        if code == 0:
            assert list(check_data_set(out)) == []

    return read


def _read_yaml(content: bytes, folder: Path) -> None:
    (folder / "config.yaml").write_bytes(content)
    options.load(folder / "config.yaml")


def _read_hosts(content: bytes, folder: Path) -> None:
    (folder / "hosts").write_bytes(content)
    hostfile.read(folder / "hosts")


def _read_facts(content: bytes, folder: Path) -> None:
    (folder / FACTS).write_bytes(content)
    CheckpointFacts.read(folder)


def _facts(folder: Path) -> list[bytes]:
    model = {"videos": 9, "npd": {"steps": 4, "on": True}}
    facts = CheckpointFacts("sha256:1", model, 2, 0, 1, {"step": 5}, items="12", files={"weights": "34"})
    facts.write(folder)
    content = json.loads((folder / FACTS).read_bytes())
    # In the older form there is no checksum that would refuse a mutation at once.
    older = {name: value for name, value in content.items() if name not in ("items", "files", "sha256")}
    return [json.dumps(form).encode() for form in (content, older)]


HISTORY_TABLES = [b"user,history\n1,4 5 6\n2,\n", b'user\thistory\n"a"\tb\n']
HISTORIES = [
    b'{"user": 3, "history": [1, "b", 2]}\n{"user": 4, "history": []}\n',
    b'{"user": "ann", "history": ["a b"]}\n',
]


def _read_histories(name: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        for _ in read_histories(str(folder / name)):
            pass

    return read


def _histories(path: Path) -> None:
    pq.write_table(pa.table({"user": [1, 2], "history": [["a"], ["b", "c"]]}), path)


def _read_export(name: str) -> Callable[[bytes, Path], None]:
    """An export of which one file is mutated, with its checksum."""

    def read(content: bytes, folder: Path) -> None:
        copy = folder / "export"
        if not copy.exists():
            write_export(copy)
        before = (copy / name).read_bytes()
        try:
            (copy / name).write_bytes(content)
            saved.write_checksums(copy)
            Recommender.load(copy)
        finally:
            (copy / name).write_bytes(before)

    return read


def _export(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        if not (folder / "sound-export").exists():
            write_export(folder / "sound-export")
        return [(folder / "sound-export" / name).read_bytes()]

    return seeds


TARGETS: dict[str, Target] = {
    "index": Target(28_000, _files("index.json"), lambda content, folder: parse_index(content, str(folder))),
    "sequences": Target(7_000, _files(SEQUENCES), _read_sequences, _repair_tar),
    "features": Target(7_000, _files(FEATURE_TAR), _read_features, _repair_tar),
    "check-sequences": Target(500, _files(SEQUENCES), _check("sequence_shards", SEQUENCES), _repair_tar),
    "check-features": Target(500, _files(FEATURE_TAR), _check("feature_shards", FEATURE_TAR), _repair_tar),
    "check-items": Target(500, _files("items.parquet"), _check("items", "items.parquet")),
    "npy": Target(
        20_000,
        lambda folder: [
            _written("a.npy", lambda path, array=array: np.save(path, array))(folder)
            for array in (np.ones((3, 2), np.float16), np.arange(5), np.array(["a", "bc"]), np.array(1.0))
        ],
        _read_array,
    ),
    "npz": Target(4_000, lambda folder: [_written("a.npz", _archive)(folder)], _read_archive),
    "ids": Target(6_000, lambda folder: [_written("ids.parquet", _ids)(folder)], _read_ids),
    "csv": Target(
        5_000,
        lambda folder: [CSV, gzip.compress(CSV)],
        _read_log(table, "log.csv", columns=table.DEFAULT + ",rating=rating", min_rating=2.0),
    ),
    "inter": Target(5_000, lambda folder: [INTER], _read_log(recbole, "log.inter", min_rating=2.0)),
    "pairs": Target(2_000, lambda folder: [PAIRS], _read_log(microlens, "pairs.tsv")),
    "import-csv": Target(100, lambda folder: [CSV, gzip.compress(CSV)], _import("table", "log.csv")),
    "import-inter": Target(100, lambda folder: [INTER], _import("recbole", "log.inter", "--min-rating", "2")),
    "import-pairs": Target(50, lambda folder: [PAIRS], _import("microlens", "pairs.tsv")),
    "import-parquet": Target(
        250, lambda folder: [_written("log.parquet", _log_parquet)(folder)], _import("table", "log.parquet")
    ),
    "yaml": Target(4_000, lambda folder: [YAML, TAGGED], _read_yaml),
    "hosts": Target(5_000, lambda folder: [HOSTS], _read_hosts),
    "checkpoint": Target(5_000, _facts, _read_facts),
    "histories-json": Target(5_000, lambda folder: HISTORIES, _read_histories("h.jsonl")),
    "histories-csv": Target(2_000, lambda folder: HISTORY_TABLES, _read_histories("h.csv")),
    "histories-parquet": Target(
        2_000, lambda folder: [_written("h.parquet", _histories)(folder)], _read_histories("h.parquet")
    ),
    "export-config": Target(300, _export("config.json"), _read_export("config.json")),
    "export-weights": Target(300, _export("model.safetensors"), _read_export("model.safetensors")),
    "export-items": Target(300, _export("items.npy"), _read_export("items.npy")),
}
EXPECTED = (DataError, UserError)
