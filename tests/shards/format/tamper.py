"""Breaks data sets on purpose, for the tests of what readers and `check` say."""

import hashlib
import json
from pathlib import Path

from webdataset import TarWriter

from shards.format.reader import decode_sample, iterate_samples


def rewrite_index(root, change):
    """Apply `change` to the parsed index.json."""
    file = Path(root) / "index.json"
    raw = json.loads(file.read_text())
    changed = change(raw)
    file.write_text(json.dumps(raw if changed is None else changed))


def rewrite_shard(root, family, number, change, resign=True):
    """Apply `change(samples)` to the decoded samples of one tar; `resign`: the index lists the new file."""
    file = Path(root) / family / f"{family}-{number:06d}.tar"
    samples = []
    for raw in iterate_samples(file):
        fields = tuple(name for name in raw if not name.startswith("__"))
        values = decode_sample(file, raw, fields)
        samples.append({"__key__": raw["__key__"], **dict(zip(fields, values, strict=True))})
    changed = change(samples)
    with open(file, "wb") as stream, TarWriter(stream, mtime=0) as tar:
        for sample in samples if changed is None else changed:
            tar.write(sample)
    if resign:
        data = file.read_bytes()

        def sign(raw):
            entry = raw[{"sequences": "sequence_shards", "features": "feature_shards"}[family]][number]
            entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()

        rewrite_index(root, sign)
