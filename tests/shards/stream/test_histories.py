"""Histories against the raw sequences: everything a user has watched, in the order of the index."""

import numpy as np
import pytest
import torch

from shards import Features
from shards.stream.feature_table import FeatureTable
from shards.stream.histories import HistoryStream, history_batch
from tests.shards.stream.reference import same


def _expected(index, sequences, chosen, batch_size, max_length):
    """The batches, built user by user."""
    for entry in index.sequence_shards:
        users = [u for u in range(entry.first_user, entry.first_user + entry.users) if chosen[u]]
        for start in range(0, len(users), batch_size):
            part = users[start : start + batch_size]
            newest = [sequences[user][-max_length:].tolist() for user in part]
            width = max(map(len, newest))
            real = [row * width + column for row, items in enumerate(newest) for column in range(len(items))]
            yield {
                "real_index": torch.tensor(real),
                "sample_id": torch.tensor(part),
                "offset": torch.tensor([max(len(sequences[user]) - max_length, 0) for user in part]),
                "item": torch.tensor([items + [0] * (width - len(items)) for items in newest]),
                "weight": torch.ones(len(part)),
                "target": torch.zeros(len(part), dtype=torch.int64),
                "history": torch.tensor(np.concatenate([sequences[user] for user in part])),
                "history_row": torch.tensor([r for r, user in enumerate(part) for _ in sequences[user]]),
            }


@pytest.mark.parametrize("max_length", [1, 6, 40])
def test_everyone(make_data_set, max_length):
    index, sequences = make_data_set()
    assert len(index.sequence_shards) > 1
    stream = HistoryStream(index, batch_size=7, max_length=max_length)
    batches = list(stream)
    expected = _expected(index, sequences, np.ones(index.users, bool), 7, max_length)
    assert same(batches, list(expected))
    assert len(stream) == len(batches) and stream.users == index.users
    assert same(list(stream), batches)


def test_chosen_users(make_data_set):
    index, sequences = make_data_set()
    chosen = np.random.default_rng(0).random(index.users) < 0.3
    chosen[:50] = False  # the first shard is left out
    stream = HistoryStream(index, chosen=chosen, batch_size=5, max_length=4)
    assert same(list(stream), list(_expected(index, sequences, chosen, 5, 4)))
    assert stream.users == chosen.sum() and len(stream) == len(list(stream))


def test_features_are_joined(make_data_set, tmp_path):
    index, _ = make_data_set(features=Features(2, 3, "float16"))
    table = FeatureTable.open(index, tmp_path / "cache")
    plain = HistoryStream(index, batch_size=9, max_length=5)
    joined = HistoryStream(index, batch_size=9, max_length=5, table=table)
    assert same(list(joined), [table.join(batch) for batch in plain])


def test_nobody(make_data_set):
    index, _ = make_data_set()
    stream = HistoryStream(index, chosen=np.zeros(index.users, bool), batch_size=9, max_length=5)
    assert (stream.users, len(stream), list(stream)) == (0, 0, [])


def test_what_does_not_fit_is_refused(make_data_set):
    index, _ = make_data_set()
    for wrong in (np.ones(5, bool), np.ones(index.users, np.int64)):
        with pytest.raises(ValueError, match="chosen: found .*, expected bool"):
            HistoryStream(index, chosen=wrong, batch_size=9, max_length=5)
    with pytest.raises(ValueError, match="expected at least 1"):
        HistoryStream(index, batch_size=0, max_length=5)


def test_histories_of_nobody_are_as_those_of_users(make_data_set):
    index, sequences = make_data_set()
    chosen = np.zeros(index.users, bool)
    chosen[:9] = True
    (expected,) = _expected(index, sequences, chosen, 9, 4)
    expected["sample_id"] = torch.zeros(9, dtype=torch.int64)
    assert same([history_batch([sequences[user].tolist() for user in range(9)], 4)], [expected])


def test_histories_without_a_video():
    batch = history_batch([[], [3, 4], []], 5)
    assert batch["item"].tolist() == [[0, 0], [3, 4], [0, 0]] and batch["history_row"].tolist() == [1, 1]
    assert history_batch([[]], 5)["item"].tolist() == [[0]]
