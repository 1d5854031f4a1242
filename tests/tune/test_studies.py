"""The studies' cells, statistics, tables and figures; sweeps are tested in test_sweep.py."""

import math

import numpy as np
import pytest
from scipy import stats

from trainer import options
from tune import figures, statistics
from tune.__main__ import main, parse_overrides
from tune.designs import DESIGNS, baseline_of, default_of
from tune.study import as_markdown, summary_rows

SIZES = {"ablation": (8, 4), "sensitivity": (78, 8), "robustness": (20, 12), "universality": (6, 4)}


@pytest.mark.parametrize("name", DESIGNS)
def test_cells_are_options_of_the_trainer(name):
    for quick in (False, True):
        cells = DESIGNS[name](quick)
        assert len(cells) == len(set(cells)) == SIZES[name][quick]
        for cell in cells:
            config = options.parse(cell.point({"preset": "study"}, 3).arguments())
            assert (config.preset, config.seed) == ("study", 3)
            for option, value in cell.overrides:
                assert options.get(config, option) == value


def test_the_default_stands_in_both_heat_maps():
    cells = DESIGNS["sensitivity"](False)
    default = options.parse([]).model
    for module in ("tcd", "npd"):
        settings = getattr(default, module)
        assert default_of(module) == (settings.loss_weight, settings.steps)
        assert (module, str(settings.loss_weight), str(settings.steps)) in {
            (cell.panel, cell.row, cell.column) for cell in cells
        }


def test_studies_share_their_common_runs():
    fixed = {"preset": "study", "model.dim": 32, "train.max_epochs": 3}
    ids = {name: {cell.point(fixed, 0).id for cell in DESIGNS[name](False)} for name in DESIGNS}
    full, backbone = (
        DESIGNS["ablation"](False)[at].point({"preset": "study", "train.max_epochs": 3}, 0).id
        for at in (0, 3)
    )
    assert all(full in ids_of_study for ids_of_study in ids.values())
    assert all(backbone in ids[name] for name in ("ablation", "robustness", "universality"))
    assert len(ids["sensitivity"]) == 77  # both maps have the full model


def test_baselines():
    ablation = DESIGNS["ablation"](False)
    assert baseline_of("ablation", ablation[0], ablation) is None
    assert baseline_of("ablation", ablation[3], ablation) == ablation[0]
    robustness = DESIGNS["robustness"](False)
    other = baseline_of("robustness", robustness[-1], robustness)
    assert (other.row, other.column) == ("full", robustness[-1].column)
    universality = DESIGNS["universality"](False)
    assert baseline_of("universality", universality[0], universality) == universality[1]


def test_paired_t_test_equals_another_form_of_it():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    result = statistics.paired_t_test(dict(enumerate(a)), {**dict(enumerate(b)), 9: 4.0})
    assert result == pytest.approx((float((a - b).mean()), stats.ttest_rel(a, b).pvalue))
    assert math.isnan(statistics.paired_t_test({0: 1.0}, {0: 2.0})[1])
    assert statistics.summarise([1.0, 3.0]) == statistics.Summary(2.0, pytest.approx(2**0.5))


def scores_of(cells, rng):
    names = [f"{split} {metric}" for split in ("test", "valid") for metric in ("hr@10", "ndcg@10")]
    return {
        cell: {
            seed: {**dict.fromkeys(names, rng.uniform(0.05, 0.06)), "test users": 5973} for seed in range(3)
        }
        for cell in cells
    }


@pytest.mark.parametrize("name", DESIGNS)
def test_table_and_figure(name, tmp_path):
    rng = np.random.default_rng(1)
    cells = DESIGNS[name](False)
    scores = scores_of(cells, rng)
    del scores[cells[1]]  # a cell that has not been run, or has failed
    rows = summary_rows(name, "some world", cells, scores) + summary_rows(
        name, "another", cells, scores_of(cells, rng)
    )
    assert len(rows) == 2 * len(cells) and rows[1]["seeds"] == 0 and rows[1]["test ndcg@10"] == ""
    assert as_markdown(rows).count("\n") == len(rows) + 1
    figures.FIGURES[name](rows, tmp_path / "figure.png")
    figures.FIGURES[name](rows, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "NDCG@10" in text and "some world" in text and "another" in text
    assert "3 seeds, 5,973 users of some world and 5,973 users of another" in text
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_options_for_all_runs():
    assert parse_overrides(["--train.max_epochs", "3", "--model.kernel", "cpu"]) == {
        "train.max_epochs": 3,
        "model.kernel": "cpu",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablation", "--", "--train.max_epochs"], "after --: found '--train.max_epochs', expected"),
        (["ablation", "--", "train.max_epochs", "3"], "after --: found 'train.max_epochs', expected"),
        (["ablation", "--", "--train.max_epoch", "3"], "did you mean train.max_epochs"),
        (["sensitivity", "--", "--model.npd.steps", "3"], "the study sensitivity varies it itself"),
    ],
)
def test_options_that_cannot_be_for_all_runs(arguments, message, tmp_path, capsys):
    at = arguments.index("--")
    paths = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["study", *arguments[:at], *paths, *arguments[at:]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_sets_of_one_name_would_be_one_in_the_figure(make_data, tmp_path, capsys):
    data = str(make_data())
    assert main(["study", "ablation", "--data", data, data, "--out", str(tmp_path / "out")]) == 2
    assert (
        "two data sets are named synthetic-60x24: import one with another --name" in capsys.readouterr().err
    )
