"""Recommendations are the best videos that a user has not seen."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from trainer.errors import UserError
from trainer.evaluation import recommend


def test_recommendations_are_the_best_unseen(
    opened, sequences, one_rank, tmp_path: Path, cache: Path, monkeypatch
) -> None:
    inputs = opened[0]
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    users, items = inputs.index.user_ids(), inputs.index.item_ids()
    wanted = tmp_path / "users.txt"
    wanted.write_text(f"{users[7]}\n{users[2]}\n")
    out = tmp_path / "top.parquet"
    assert (
        recommend.main([str(one_rank["whole"]), "--out", str(out), "--top", "6", "--users", str(wanted)]) == 0
    )
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert {row["user"] for row in rows} == {users[2], users[7]} and len(rows) == 12
    for user in (2, 7):
        best = [row for row in rows if row["user"] == users[user]]
        assert [row["rank"] for row in best] == [1, 2, 3, 4, 5, 6]
        assert sorted((row["score"] for row in best), reverse=True) == [row["score"] for row in best]
        seen = {items[item - 1] for item in sequences[user]}
        assert not seen & {row["item"] for row in best}
    with pytest.raises(UserError, match="exists already"):
        recommend.main([str(one_rank["whole"]), "--out", str(out)])
    wanted.write_text("nobody\n")
    with pytest.raises(UserError, match="no user 'nobody'"):
        recommend.main([str(one_rank["whole"]), "--out", str(tmp_path / "a.csv"), "--users", str(wanted)])
