"""Real studies on a small data set: what they write, and what they share."""

import csv

import pytest

from tests.tune import commands

SMALL = ["--train.max_epochs", "1", "--model.dim", "16", "--train.batch_size", "32", "--train.log_every", "1"]

pytestmark = pytest.mark.slow


def run(name, folder, data, expected=0):
    options = ["--quick", "--seeds", "1", "--data", data, "--out", folder / "out", "--", *SMALL]
    return commands.wait(commands.start(["study", name, *options], folder, folder / "cache"), expected)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, make_data):
    """The folder, and the output of two studies and of one of them again."""
    folder, data = tmp_path_factory.mktemp("study"), make_data()
    return folder, [run(name, folder, data) for name in ("ablation", "universality", "ablation")]


def test_studies_run_what_another_has_not_run(outputs):
    _, (ablation, universality, again) = outputs
    assert "4 runs, 4 to do" in ablation
    assert "4 runs, 2 to do" in universality  # the full model and the backbone alone are there
    assert "4 runs, 0 to do" in again


def test_a_study_leaves_its_table_and_its_figure(outputs):
    folder, (ablation, _, again) = outputs
    for name in ("ablation", "universality"):
        assert (folder / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "NDCG@10" in (folder / "out" / f"{name}.svg").read_text()
        with open(folder / "out" / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["seeds"] for row in rows] == ["1"] * 4
        assert all(0 < float(row["test ndcg@10"]) < 1 for row in rows)
    table = [line for line in ablation.splitlines() if line.startswith("| ")]
    assert table == [line for line in again.splitlines() if line.startswith("| ")] and len(table) == 5
