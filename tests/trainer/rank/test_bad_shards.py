"""A run that loses a shard goes on within its budget, in as many steps, and counts what it did not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards import DataSetWriter, Index
from tests.trainer import runs

BATCH, USERS = 16, 160


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five shards of 32 users; one is damaged, which its size does not show."""
    rng = np.random.default_rng(0)
    length = rng.integers(4, 9, USERS)
    with DataSetWriter(
        tmp_path / "data",
        name="data",
        item_ids=np.arange(30),
        user_type="int64",
        split={"kind": "leave-one-out"},
        block_users=32,
        shard_blocks=1,
    ) as writer:
        boundary = np.stack([length - 2, length - 1], axis=1)
        items = rng.integers(1, 31, length.sum())
        writer.add_users(np.arange(USERS), length, items, np.zeros(length.sum()), boundary)
        index = writer.commit({})
    file = index.local(index.sequence_shards[2])
    file.write_bytes(b"?" * file.stat().st_size)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_run_that_loses_a_shard(tmp_path: Path, data: Path) -> None:
    """A span of one batch: some batches are of the lost shard alone, and have no samples at all."""
    common = {"train__batch_size": BATCH, "data__shuffle_window": 1}
    common |= {"train__max_epochs": 1, "train__save_every_steps": 0}
    kept, refused = tmp_path / "kept", tmp_path / "refused"
    commands = [
        runs.arguments(kept, data, data__max_bad_shards=1, **common),
        runs.arguments(refused, data, **common),
    ]
    ended = runs.train_several(2, commands, tmp_path / "cache")
    assert ended[0] is None
    assert ended[1] is not None and "sequences-000002.tar: wrong checksum" in ended[1]
    steps = [record for record in runs.records(kept) if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, USERS // BATCH + 1))
    assert all(np.isfinite(record["loss"]) for record in steps)
    assert steps[-1]["unread_samples"] == 32 and steps[-1]["samples"] == USERS - 32
    assert any(record["loss"] == 0 for record in steps)
    assert runs.results(kept)["test"]["users"] == USERS - 32
    assert Index.load(data).users == USERS
