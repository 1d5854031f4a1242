"""The file of ranks: what is in it, from any number of ranks, and metrics that follow from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mealrec import metrics
from tests.trainer import runs
from trainer.errors import UserError
from trainer.evaluation import command, evaluate, ranks


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEALREC_CACHE", str(cache))


def by_hand(above: int, equal: int) -> dict[str, float]:
    """A user's metrics: the mean over every rank that ties leave open."""
    places = np.arange(above + 1, above + equal + 2)
    found = {f"hr@{k}": np.mean(places <= k) for k in (5, 10, 20)}
    found |= {f"ndcg@{k}": np.mean((places <= k) / np.log2(places + 1)) for k in (5, 10, 20)}
    return {**found, "mrr": np.mean(1 / places)}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_metrics_of_a_run_follow_from_its_file(
    one_rank: dict[str, Path], two_ranks: dict[int, Path], world: int, split: str
) -> None:
    run = one_rank["whole"] if world == 1 else two_ranks[0]
    kept, expected = ranks.read(run / f"ranks-{split}.parquet"), runs.results(run)[split]
    assert len(kept.user) == expected.pop("users") == 398
    rows = [by_hand(*pair) for pair in zip(kept.above, kept.equal, strict=True)]
    assert {name: np.mean([row[name] for row in rows]) for name in expected} == pytest.approx(
        expected, abs=1e-12
    )
    assert {name: gain.mean() for name, gain in kept.gains().items()} == pytest.approx(expected, abs=1e-12)
    environment, best = runs.environment(run), runs.results(run)["best_step"]
    assert kept.facts == ranks.Facts(environment["fingerprint"], split, best, True, 0)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_rows_are_the_users_of_the_index(
    opened, sequences, one_rank: dict[str, Path], two_ranks: dict[int, Path], split: str
) -> None:
    index = opened[0].index
    users, items, counts = index.user_ids(), index.item_ids(), index.train_counts()
    back = 1 if split == "test" else 2
    evaluated = [(user, items_of) for user, items_of in enumerate(sequences) if len(items_of) >= 3]
    expected = {
        "user": [users[user] for user, _ in evaluated],
        "target": [items[of_user[-back] - 1] for _, of_user in evaluated],
        "history": [len(of_user) - back for _, of_user in evaluated],
        "count": [counts[of_user[-back]] for _, of_user in evaluated],
    }
    for run in (one_rank["whole"], one_rank["accumulated"], *two_ranks.values()):
        table = pq.read_table(run / f"ranks-{split}.parquet")
        assert table.column_names == ["user", "target", "above", "equal", "history", "count"]
        assert table.select([*expected]).to_pydict() == expected
        assert [str(kind) for kind in table.schema.types[2:]] == ["int32", "int32", "int32", "int64"]


def test_the_number_of_gathers_changes_nothing(
    opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, model, config = opened
    config.eval.batch_size, before = 64, config.eval.batch_size
    facts = ranks.Facts(inputs.index.fingerprint, "test", 1, True, 0)
    for gather, rows in ((64, 1 << 18), (2, 70)):
        monkeypatch.setattr(ranks, "GATHER_BATCHES", gather)
        monkeypatch.setattr(ranks, "ROWS", rows)
        collector = ranks.Collector(inputs.index, inputs.world.device, is_main=True)
        stream = inputs.eval_stream("test", config.eval)
        evaluate.evaluate(model, stream, inputs, config.eval, 0, collector)
        collector.write(tmp_path / f"{gather}.parquet", facts)
    config.eval.batch_size = before
    assert pq.read_table(tmp_path / "64.parquet").equals(pq.read_table(tmp_path / "2.parquet"))
    assert pq.ParquetFile(tmp_path / "2.parquet").num_row_groups > 1


def test_evaluate_replaces_a_runs_own_file_and_writes_others_where_told(
    one_rank: dict[str, Path], tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(one_rank["whole"], run)
    own = run / "ranks-test.parquet"
    before = pq.read_table(own)
    own.write_bytes(b"damaged")
    assert command.main([str(run)]) == 0
    assert pq.read_table(own).equals(before, check_metadata=True)
    # With other steps it is not what the run ended with.
    stamp = own.stat().st_mtime_ns
    assert command.main([str(run), "--sampler_steps", "1", "--no-mask-history"]) == 0
    assert own.stat().st_mtime_ns == stamp
    capsys.readouterr()
    other = tmp_path / "other.parquet"
    arguments = [str(run), "--sampler_steps", "1", "--no-mask-history", "--ranks", str(other)]
    assert command.main(arguments) == 0 and own.stat().st_mtime_ns == stamp
    printed, kept = json.loads(capsys.readouterr().out), ranks.read(other)
    assert (kept.facts.sampler_steps, kept.facts.mask_history) == (1, False)
    found = {name: gain.mean() for name, gain in kept.gains().items()}
    assert found == pytest.approx({name: printed[name] for name in metrics.NAMES}, abs=1e-12)
    with pytest.raises(UserError, match="cannot be written: No such file"):
        command.main([str(run), "--ranks", str(tmp_path / "missing" / "file")])


def test_a_run_that_cannot_be_written_is_evaluated(one_rank: dict[str, Path], tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(one_rank["whole"], run)
    own = run / "ranks-test.parquet"
    own.unlink()
    own.mkdir()  # as root, a test can write everywhere but here
    assert command.main([str(run)]) == 0
    out, err = capsys.readouterr()
    assert "ndcg@10" in out and f"warning: {own} cannot be written: Is a directory" in err


def test_files_that_are_no_ranks_are_refused(one_rank: dict[str, Path], tmp_path: Path) -> None:
    table, path = pq.read_table(one_rank["whole"] / "ranks-test.parquet"), tmp_path / "ranks.parquet"
    for change, message in (
        (lambda: path.write_bytes(b"no parquet"), "cannot be read"),
        (lambda: pq.write_table(table.drop(["above"]), path), "column above: found none, expected int32"),
        (lambda: pq.write_table(table.replace_schema_metadata({}), path), "is no file of ranks"),
        (
            lambda: pq.write_table(
                table.set_column(2, "above", pa.array([None] + [1] * 397, pa.int32())), path
            ),
            "column above: found 1 empty values",
        ),
    ):
        change()
        with pytest.raises(UserError, match=message):
            ranks.read(path)
    with pytest.raises(UserError, match="cannot be read: "):
        ranks.read(tmp_path / "missing")
