"""Shards that become unreadable during a run: tried again, then left out within a budget."""

import numpy as np
import pytest

from shards import DataError, EvalStream, TrainStream, retry
from shards.format import files

TRAIN = dict(batch_size=24, micro_batch_size=6, max_length=7, seed=5, shuffle_window=2)
EVAL = dict(batch_size=8, max_length=5)


@pytest.fixture
def broken(make_data_set):
    """A data set two of whose shards are damaged after it was opened, and its users by shard."""
    index, _ = make_data_set(users=300)
    for number in (1, 4):
        file = index.local(index.sequence_shards[number])
        file.write_bytes(b"?" * file.stat().st_size)
    return index


def rows(batches):
    """The users of the real rows."""
    return [user for batch in batches for user in batch["sample_id"][batch["weight"] > 0].tolist()]


def train(index, world_size=1, epoch=0, **options):
    """By rank: the micro-batches of an epoch."""
    ranks = []
    for rank in range(world_size):
        stream = TrainStream(index, rank=rank, world_size=world_size, **TRAIN, **options)
        ranks.append([micro for step in stream.epoch(epoch) for micro in step])
    return ranks


def users_of(index, *shards):
    chosen = [index.sequence_shards[number] for number in shards]
    return {user for shard in chosen for user in range(shard.first_user, shard.first_user + shard.users)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_is_trained_in_as_many_steps(broken, capfd, workers):
    ranks = train(broken, world_size=2, max_bad_shards=2, workers=workers)
    stream = TrainStream(broken, rank=0, world_size=2, **TRAIN)
    assert [len(batches) for batches in ranks] == [stream.steps_per_epoch * stream.accumulation] * 2
    trained = rows(batch for batches in ranks for batch in batches)
    bad = users_of(broken, 1, 4)
    assert trained and not bad & set(trained)
    # Every sample of the other shards is there once.
    lost = sum(stream._shard_samples[number] for number in (1, 4))
    assert len(trained) == stream.samples_per_epoch - lost
    for batch in (batch for batches in ranks for batch in batches):
        empty = batch["weight"] == 0
        assert not batch["item"][empty].any() and not batch["target"][empty].any()
    said = capfd.readouterr().err
    assert "left out a sequence shard (2 of at most 2): " in said and "wrong checksum" in said


def test_more_than_the_budget_is_an_error(broken):
    with pytest.raises(DataError, match=r"wrong checksum: [^;]*$"):
        train(broken)
    with pytest.raises(DataError, match="wrong checksum.*; 1 other shards were left out before it"):
        train(broken, max_bad_shards=1)


def test_a_shard_that_is_left_out_stays_out(broken):
    stream = TrainStream(broken, rank=0, world_size=1, max_bad_shards=2, **TRAIN)
    first = rows(micro for step in stream.epoch(0) for micro in step)
    file = broken.local(broken.sequence_shards[1])
    file.unlink()
    second = rows(micro for step in stream.epoch(1) for micro in step)
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_counts_the_users_that_it_can_read(broken, world_size):
    options = [dict(rank=rank, world_size=world_size, **EVAL) for rank in range(world_size)]
    streams = [EvalStream(broken, "test", max_bad_shards=2, **each) for each in options]
    batches = [list(stream) for stream in streams]
    assert [len(one) for one in batches] == [len(streams[0])] * world_size
    evaluated = rows(batch for one in batches for batch in one)
    assert len(evaluated) == len(set(evaluated)) and not users_of(broken, 1, 4) & set(evaluated)
    assert 0 < len(evaluated) < broken.counts.test_users
    with pytest.raises(DataError, match="wrong checksum"):
        list(EvalStream(broken, "test", **options[0]))


def test_what_goes_away_does_not_count(make_data_set, monkeypatch):
    """A file system that stumbles twice is asked a third time."""
    index, _ = make_data_set()
    expected = train(index)
    files._verified.clear()
    sha256, calls = files.file_sha256, []

    def stumbling(path):
        calls.append(path)
        if len(calls) < 3:
            raise OSError(5, "Input/output error")
        return sha256(path)

    monkeypatch.setattr(files, "file_sha256", stumbling)
    found = train(index)
    for one, other in zip(expected[0], found[0], strict=True):
        assert np.array_equal(one["item"], other["item"])
    files._verified.clear()
    calls.clear()
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    with pytest.raises(DataError, match=r"\.tar: not readable: Input/output error"):
        train(index)
