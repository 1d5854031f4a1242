"""Real studies on a small data set: what they write, and what they share."""

import csv

import pytest

from tests.tune import commands

SMALL = ["--train.max_epochs", "1", "--model.dim", "16", "--train.batch_size", "32", "--train.log_every", "1"]
SMALL += ["--train.decay", "constant"]

pytestmark = pytest.mark.slow


def run(name, folder, data, expected=0):
    options = ["--quick", "--seeds", "1", "--data", data, "--out", folder / "out", "--", *SMALL]
    return commands.wait(commands.start(["study", name, *options], folder, folder / "cache"), expected)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, make_data):
    """The folder, and the output of three studies and of one of them again."""
    folder, data = tmp_path_factory.mktemp("study"), make_data()
    names = ("ablation", "universality", "robustness", "ablation")
    return folder, [run(name, folder, data) for name in names]


def table_of(folder, name):
    with open(folder / "out" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_studies_run_what_another_has_not_run(outputs):
    _, (ablation, universality, robustness, again) = outputs
    assert "5 runs, 5 to do" in ablation
    assert "4 runs, 2 to do" in universality  # the full model and the backbone alone are there
    assert "4 runs, 0 to do" in robustness  # noise is added to the ablation's runs
    assert robustness.count("evaluating ") == 4 * 2
    assert "5 runs, 0 to do" in again and "evaluating" not in again


def test_a_study_leaves_its_table_and_its_figure(outputs):
    folder, (ablation, _, robustness, again) = outputs
    cells = {"ablation": 6, "universality": 4}
    for name in ("ablation", "universality", "ablation-popularity", "universality-history"):
        assert (folder / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "NDCG@10" in (folder / "out" / f"{name}.svg").read_text()
        rows = table_of(folder, name)
        assert {row["seeds"] for row in rows} == {"1"} and len(rows) % cells[name.split("-")[0]] == 0
        for row in rows:
            low, mean, high = (float(row[f"test ndcg@10{end}"]) for end in (" low", "", " high"))
            assert low <= mean <= high and 0 <= mean <= 1
    curves = table_of(folder, "ablation-curves")
    assert [row["variant"] for row in curves] == ["full", "w/o TCD", "w/o NPD", "w/o both", "IDs only"]
    assert {row["ending"] for row in curves} == {"still improving"}
    assert "warning: synthetic-60x24, full: 1 of 1 runs were best in the last epoch" in ablation
    clean, noisy = (
        [row for row in table_of(folder, "robustness") if row["column"] == s] for s in ("0.0", "1.0")
    )
    full = table_of(folder, "ablation")[0]
    assert clean[0]["test ndcg@10"] == full["test ndcg@10"] and len(noisy) == 4
    assert [row["test ndcg@10"] for row in clean] != [row["test ndcg@10"] for row in noisy]
    for name in ("popularity", "oracle"):
        assert f"\nsynthetic-60x24, {name}: test HR@10 " in ablation
    table = [line for line in ablation.splitlines() if line.startswith("| ")]
    assert table == [line for line in again.splitlines() if line.startswith("| ")] and len(table) == 7


def test_a_study_that_is_not_complete_writes_what_there_is(outputs, make_data):
    folder, _ = outputs
    options = ["--quick", "--seeds", "2", "--data", make_data(), "--out", folder / "out", "--finished-only"]
    output = commands.wait(
        commands.start(["study", "ablation", *options, "--", *SMALL], folder, folder / "cache"), 1
    )
    assert "10 runs, 5 to do" in output and "**Incomplete**: 7 evaluations are missing." in output
    # Of two seeds there is one pair, whose second run is missing.
    expected = [("1", "1")] * 6 + [("0", "1")]
    assert [(row["seeds"], row["missing"]) for row in table_of(folder, "ablation")] == expected
