"""Training against the raw sequences: what was written comes out, once, at any world size, from any step."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import DataError, DataSetWriter, Features
from shards.stream.feature_table import FeatureTable
from shards.stream.training import TrainStream
from tests.shards.stream.reference import same, windows

OPTIONS = dict(
    batch_size=24, micro_batch_size=24, rank=0, world_size=1, max_length=7, stride=3, seed=5, shuffle_window=3
)


def _rows(batch):
    """The real rows of a training batch as (user, offset, items, targets)."""
    for row in torch.nonzero(batch["weight"]).flatten().tolist():
        item = batch["item"][row]
        length = int((item > 0).sum())
        assert (item[:length] > 0).all() and not batch["target"][row, length:].any()
        targets = tuple(batch["target"][row, :length].tolist())
        yield int(batch["sample_id"][row]), int(batch["offset"][row]), tuple(item[:length].tolist()), targets


def _reference_rows(sequences, max_length, stride):
    for user, sequence in enumerate(sequences):
        train = sequence if len(sequence) < 3 else sequence[:-2]
        for start, stop, first_target in windows(len(train), max_length, stride):
            targets = tuple(int(train[i]) if i >= first_target else 0 for i in range(start + 1, stop))
            yield user, start, tuple(train[start : stop - 1].tolist()), targets


def test_an_epoch_is_every_sample_once(make_data_set):
    index, sequences = make_data_set()
    stream = TrainStream(index, **OPTIONS)
    steps = list(stream.epoch(0))
    rows = [row for step in steps for batch in step for row in _rows(batch)]
    expected = sorted(_reference_rows(sequences, 7, 3))
    assert sorted(rows) == expected
    assert stream.samples_per_epoch == len(expected)
    assert stream.steps_per_epoch == len(steps) == -(-len(expected) // 24)
    counted = sum(int((batch["target"] > 0).sum()) for step in steps for batch in step)
    assert counted == sum(max(len(s) - (1 if len(s) < 3 else 3), 0) for s in sequences)


def test_batches_are_as_the_legend_says(make_data_set):
    index, _ = make_data_set()
    for step in TrainStream(index, **OPTIONS).epoch(1):
        for batch in step:
            longest = max(1, int((batch["item"] > 0).sum(1).max()))
            assert batch["item"].shape == batch["target"].shape == (24, longest)
            indices = {"real_index", "target_index"}
            assert set(batch) == {"sample_id", "offset", "item", "target", "weight"} | indices
            assert torch.equal(batch["real_index"], batch["item"].flatten().nonzero()[:, 0])
            assert torch.equal(batch["target_index"], batch["target"].flatten().nonzero()[:, 0])
            assert batch["weight"].dtype == torch.float32
            assert all(batch[name].dtype == torch.int64 for name in batch if name != "weight")
            assert not batch["weight"][batch["item"][:, 0] == 0].any()


def test_world_size_and_micro_batch_only_say_who_takes_what(make_data_set):
    index, _ = make_data_set()
    whole = [
        [row for batch in step for row in _rows(batch)] for step in TrainStream(index, **OPTIONS).epoch(2)
    ]
    for world_size, micro in [(1, 6), (2, 12), (2, 3), (3, 4), (8, 1), (24, 1)]:
        options = {**OPTIONS, "world_size": world_size, "micro_batch_size": micro}
        ranks = [list(TrainStream(index, **{**options, "rank": rank}).epoch(2)) for rank in range(world_size)]
        for k, parts in enumerate(zip(*ranks, strict=True)):
            assert {len(part) for part in parts} == {24 // (world_size * micro)}
            assert {len(batch["item"]) for part in parts for batch in part} == {micro}
            assert sorted(row for part in parts for batch in part for row in _rows(batch)) == sorted(whole[k])


def test_the_short_batch_is_last_and_filled_with_weight_0(make_data_set):
    index, _ = make_data_set()
    for rank in range(4):
        stream = TrainStream(index, **{**OPTIONS, "world_size": 4, "micro_batch_size": 3, "rank": rank})
        assert stream.samples_per_epoch % 24
        steps = list(stream.epoch(0))
        assert all((batch["weight"] == 1).all() for step in steps[:-1] for batch in step)
        for batch in steps[-1]:
            fillers = batch["weight"] == 0
            for name in ("sample_id", "offset", "item", "target"):
                assert not batch[name][fillers].any()
    assert fillers.all() and batch["item"].shape == (3, 1)  # nothing was left for the last rank's last


@pytest.mark.parametrize("start", [0, 1, 3, 5, 11])
def test_resume_continues(make_data_set, start):
    index, _ = make_data_set()
    whole = list(TrainStream(index, **OPTIONS).epoch(1))
    stream = TrainStream(index, **OPTIONS)
    epoch, step = stream.load_state_dict(copy.deepcopy(TrainStream(index, **OPTIONS).state_dict(1, start)))
    assert (epoch, step) == (1, start)
    assert same(list(stream.epoch(epoch, step)), whole[start:])


def test_resume_does_not_read_earlier_spans(make_data_set):
    index, _ = make_data_set(users=600)
    stream = TrainStream(index, **OPTIONS)
    plan = stream.plan(0)
    needed = {piece.shard for span in range(plan.spans - 1, plan.spans) for piece in plan.pieces(span)}
    for number, entry in enumerate(index.sequence_shards):
        if number not in needed:
            os.remove(index.local(entry))
    start = (plan.spans - 1) * plan.window
    assert len(needed) < len(index.sequence_shards)
    assert len(list(stream.epoch(0, start))) == plan.steps - start


def test_state_is_in_samples_and_survives_another_world_size(make_data_set):
    index, _ = make_data_set()
    stream = TrainStream(index, **OPTIONS)
    state = stream.state_dict(3, 5)
    assert state["samples"] == 5 * 24 and state["fingerprint"] == index.fingerprint
    other = TrainStream(index, **{**OPTIONS, "world_size": 4, "micro_batch_size": 3, "rank": 2})
    assert other.load_state_dict(state) == (3, 5)
    end = stream.state_dict(3, stream.steps_per_epoch)
    assert end["samples"] == stream.samples_per_epoch
    assert list(stream.epoch(*stream.load_state_dict(end))) == []


@pytest.mark.parametrize(
    "field, value",
    [
        ("fingerprint", "sha256:0"),
        ("seed", 6),
        ("batch_size", 48),
        ("max_length", 8),
        ("stride", 1),
        ("shuffle_window", 4),
    ],
)
def test_state_of_another_order_is_refused(make_data_set, field, value):
    index, _ = make_data_set()
    stream = TrainStream(index, **OPTIONS)
    state = {**stream.state_dict(0, 1), field: value}
    with pytest.raises(DataError, match=f"{field}: found {value} in the checkpoint, expected"):
        stream.load_state_dict(state)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(make_data_set, tmp_path, workers):
    index, _ = make_data_set(features=Features(2, 3, "float16"))
    table = FeatureTable.open(index, tmp_path / "cache")
    alone = list(TrainStream(index, table=table, **OPTIONS).epoch(0, 2))
    state = torch.get_rng_state()
    assert same(list(TrainStream(index, table=table, workers=workers, **OPTIONS).epoch(0, 2)), alone)
    assert torch.equal(torch.get_rng_state(), state)  # the run's generator is left alone


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_of_a_shard_arrive_as_they_are(make_data_set, workers):
    index, _ = make_data_set()
    path = index.local(index.sequence_shards[3])
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DataError, match="sequences-000003.tar: wrong checksum: found sha256 .*, expected"
    ) as caught:
        list(TrainStream(index, workers=workers, **OPTIONS).epoch(0))
    assert "\n" not in str(caught.value)


def test_index_that_disagrees_with_its_shards(make_data_set):
    index, _ = make_data_set()
    entry = index.sequence_shards[0]
    lengths = tuple((length + 7, count) for length, count in entry.train_lengths)
    object.__setattr__(entry, "train_lengths", lengths)
    with pytest.raises(DataError, match="sequences-000000.tar: found .* samples, expected"):
        list(TrainStream(index, **OPTIONS).epoch(0))


def test_an_abandoned_epoch_ends_its_thread(make_data_set):
    import threading

    index, _ = make_data_set()
    epoch = TrainStream(index, **OPTIONS).epoch(0)
    next(epoch)
    assert any(thread.name == "shards-prefetch" for thread in threading.enumerate())
    epoch.close()
    assert not any(thread.name == "shards-prefetch" for thread in threading.enumerate())


def test_a_process_ends_with_an_epoch_half_read(make_data_set):
    index, _ = make_data_set()
    code = (
        "import sys; from shards import Index; from shards.stream.training import TrainStream\n"
        f"epoch = TrainStream(Index.load(sys.argv[1]), **{OPTIONS}).epoch(0); next(epoch); print('read')"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, index.path], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "read\n", "")


def test_sizes_that_do_not_fit_are_refused(make_data_set, tmp_path):
    index, _ = make_data_set()
    for wrong in ({"micro_batch_size": 5}, {"world_size": 5}, {"rank": 1}, {"stride": 8}, {"max_length": 0}):
        with pytest.raises(ValueError, match="found"):
            TrainStream(index, **{**OPTIONS, **wrong})
    with DataSetWriter(
        tmp_path / "single", name="single", item_ids=np.arange(3), user_type="int64", split={"kind": "none"}
    ) as writer:
        writer.add_users(np.arange(4), np.ones(4), np.array([1, 2, 3, 1]), np.zeros(4), np.ones((4, 2)))
        single = writer.commit({})
    with pytest.raises(DataError, match="nothing to train on"):
        TrainStream(single, **OPTIONS)


def test_streams_travel_to_other_processes(make_data_set, tmp_path):
    """What a data worker that is not forked needs."""
    index, _ = make_data_set(features=Features(2, 3, "float32"))
    stream = TrainStream(index, table=FeatureTable.open(index, tmp_path / "cache"), **OPTIONS)
    assert same(list(pickle.loads(pickle.dumps(stream)).epoch(0)), list(stream.epoch(0)))


# ---- real data


@pytest.mark.skipif("MEALREC_REAL_DATA" not in os.environ, reason="needs $MEALREC_REAL_DATA")
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_padding_on_microlens(tmp_path, world_size):
    path = Path(os.environ["MEALREC_REAL_DATA"]) / "microlens50k" / "MicroLens-50k_pairs.tsv"
    raw = [np.array(line.split("\t")[1].split(), dtype=np.int64) for line in path.read_text().splitlines()]
    length = np.array([len(sequence) for sequence in raw])
    ids, item = np.unique(np.concatenate(raw), return_inverse=True)
    boundary = np.stack([length - 2, length - 1], axis=1)
    with DataSetWriter(
        tmp_path / "ml", name="ml", item_ids=ids, user_type="int64", split={"kind": "leave-one-out"}
    ) as writer:
        writer.add_users(np.arange(len(raw)), length, item + 1, np.zeros(len(item)), boundary)
        index = writer.commit({})
    real = cells = 0
    for rank in range(world_size):
        stream = TrainStream(
            index,
            batch_size=512,
            micro_batch_size=512 // 8,
            rank=rank,
            world_size=world_size,
            max_length=13,
            seed=0,
        )
        for step in stream.epoch(0):
            for batch in step:
                real += int((batch["item"] > 0).sum())
                cells += batch["item"].numel()
    assert 1 - real / cells <= 0.05
