"""The samples of an epoch, from the index alone, and shards in memory."""

import numpy as np
import pytest

from shards import DataError, DataSetWriter, training_samples
from shards.stream.samples import SampleCache, Samples, shard_samples
from tests.shards.stream.reference import windows


@pytest.mark.parametrize("stride", [1, 3, 7])
def test_training_samples_are_the_windows_of_all_users(make_data_set, stride):
    index, sequences = make_data_set()
    parts = [len(sequence) - 2 * (len(sequence) >= 3) for sequence in sequences]
    assert training_samples(index, 7, stride) == sum(len(windows(part, 7, stride)) for part in parts)
    assert sum(shard_samples(index, 7, stride)) == training_samples(index, 7, stride)
    assert len(shard_samples(index, 7, stride)) == len(index.sequence_shards)


def test_the_default_stride_is_half_a_window(make_data_set):
    index, _ = make_data_set()
    assert training_samples(index, 7, 0) == training_samples(index, 7, 3)


def test_nothing_to_train_on(make_data_set, tmp_path):
    kind = dict(name="single", item_ids=np.arange(3), user_type="int64", split={"kind": "none"})
    with DataSetWriter(tmp_path / "single", **kind) as writer:
        writer.add_users(np.arange(4), np.ones(4), np.array([1, 2, 3, 1]), np.zeros(4), np.ones((4, 2)))
        single = writer.commit({})
    with pytest.raises(DataError, match="nothing to train on: no user has 2 items"):
        training_samples(single, 7, 3)
    index, _ = make_data_set()
    for max_length, stride in ((0, 0), (7, 8), (7, -1)):
        with pytest.raises(ValueError, match="found"):
            training_samples(index, max_length, stride)


def test_the_cache_drops_what_was_used_least_recently():
    loaded = []

    def load(shard):
        loaded.append(shard)
        return Samples(np.zeros(1000, np.int32), *(np.zeros(1, np.int64) for _ in range(5)))

    cache = SampleCache(load, max_bytes=2 * load(-1).nbytes)
    for shard in (0, 1, 0, 2, 0, 1):
        cache[shard]
    assert loaded == [-1, 0, 1, 2, 1]
