"""Evaluation against the raw sequences: every target once, at any world size."""

import itertools

import numpy as np
import pytest

from shards.stream.evaluation import EvalStream


def _evaluate(index, split, world_size, **options):
    """All ranks' batches; (user, offset, inputs, target, history) of the real rows."""
    ranks = []
    for rank in range(world_size):
        stream = EvalStream(
            index, split, **{"batch_size": 7, "max_length": 6, **options}, rank=rank, world_size=world_size
        )
        ranks.append(list(stream))
        assert len(ranks[-1]) == len(stream)
    rows = []
    for batch in itertools.chain(*ranks):
        assert batch["item"].shape[0] == batch["target"].shape[0] == batch["weight"].shape[0] == 7
        assert batch["real_index"].tolist() == np.flatnonzero(batch["item"]).tolist()
        for row in range(7):
            history = batch["history"][batch["history_row"] == row].tolist()
            if batch["weight"][row]:
                item = batch["item"][row]
                user, offset, target = (int(batch[name][row]) for name in ("sample_id", "offset", "target"))
                rows.append((user, offset, item[item > 0].tolist(), target, history))
            else:
                assert not (history or batch["item"][row].any() or batch["target"][row])
    return ranks, rows


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_is_every_target_once(make_data_set, split, world_size):
    index, sequences = make_data_set()
    ranks, rows = _evaluate(index, split, world_size)
    end = -1 if split == "test" else -2
    expected = []
    for user, sequence in enumerate(sequences):
        if len(sequence) >= 3:
            before = sequence[:end].tolist()
            expected.append((user, max(len(before) - 6, 0), before[-6:], int(sequence[end]), before))
    assert sorted(rows) == expected
    assert len({len(batches) for batches in ranks}) == 1
    assert EvalStream(index, split, batch_size=7, rank=0, world_size=1, max_length=6).users == len(expected)


def test_evaluation_over_several_spans_needs_little_padding(make_data_set, monkeypatch):
    index, sequences = make_data_set(users=900)
    monkeypatch.setattr("shards.stream.evaluation.SPAN_BATCHES", 10)
    ranks, rows = _evaluate(index, "test", 2, max_length=25)
    assert len({row[0] for row in rows}) == len(rows) == sum(len(s) >= 3 for s in sequences)
    cells = sum(batch["item"].numel() for batches in ranks for batch in batches)
    assert sum(len(row[2]) for row in rows) > 0.85 * cells


def test_a_split_without_targets_is_empty(make_data_set):
    index, _ = make_data_set(split="none")
    stream = EvalStream(index, "test", batch_size=7, rank=0, world_size=1, max_length=6)
    assert (stream.users, len(stream), list(stream)) == (0, 0, [])
    with pytest.raises(ValueError, match="split: found 'train'"):
        EvalStream(index, "train", batch_size=7, rank=0, world_size=1, max_length=6)
