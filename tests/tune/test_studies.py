"""The studies' cells and their command line; tables, figures and real runs have tests of their own."""

import pytest

from shards import synthesise
from trainer import options
from tune.__main__ import main, parse_overrides
from tune.designs import DESIGNS, ONE_STEP, PRIMARY, QUICK, TWO_SEEDS, baseline_of, cells_of, default_of

SIZES = {"ablation": (19, 7), "sensitivity": (78, 8), "robustness": (20, 12), "universality": (6, 4)}
SEEDS = [0, 1, 2]
FIXED = {"preset": "study"}


@pytest.mark.parametrize("name", DESIGNS)
def test_cells_are_options_of_the_trainer(name):
    for quick in (False, True):
        cells = DESIGNS[name](quick)
        assert len(cells) == len(set(cells)) == SIZES[name][quick]
        for cell in cells:
            for part, point in zip(cell.parts, cell.points(FIXED, 2, SEEDS), strict=True):
                config = options.parse(point.arguments())
                assert (config.preset, config.seed) == ("study", (2 + part.shift) % 3)
                for option, value in part.overrides:
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


def ids(name, fixed):
    """The runs of a study, by one seed."""
    return {point.id for cell in DESIGNS[name](False) for point in cell.points({**FIXED, **fixed}, 0, [0])}


def test_studies_share_their_common_runs():
    runs = {name: ids(name, {"model.dim": 32, "train.max_epochs": 3}) for name in DESIGNS}
    full, backbone = (
        DESIGNS["ablation"](False)[at].points({**FIXED, "train.max_epochs": 3}, 0, [0])[0].id for at in (0, 3)
    )
    assert all(full in of_study for of_study in runs.values())
    assert all(backbone in runs[name] for name in ("ablation", "robustness", "universality"))
    assert len(runs["sensitivity"]) == 77  # both maps have the full model
    assert len(runs["ablation"]) == 16  # late fusion has no runs of its own
    assert runs["robustness"] < runs["ablation"] and len(runs["robustness"]) == 4  # noise needs no training


def test_late_fusion_is_of_runs_that_are_trained_apart():
    cells = {cell.row: cell for cell in DESIGNS["ablation"](False)}

    def of(row, seed):
        return cells[row].points(FIXED, seed, SEEDS)

    for seed, following in ((0, 1), (1, 2), (2, 0)):
        assert of("late fusion: IDs + content", seed) == of("IDs only", seed) + of("content only", seed)
        assert of("late fusion: two seeds of IDs", seed) == of("IDs only", seed) + of("IDs only", following)
    two = cells["late fusion: two seeds of IDs"]
    assert [two.seeds(range(n)) for n in (1, 2, 3)] == [[], [0], [0, 1, 2]]
    assert cells["late fusion: IDs + content"].seeds([0]) == [0]
    assert not two.is_trained and cells["full"].is_trained


def test_without_frames_there_is_what_they_do_not_matter_to():
    cells = cells_of("ablation", quick=False, has_frames=False)
    assert [cell.row for cell in cells] == [
        "full",
        "w/o NPD",
        "NPD told the step",
        "NPD: network without noise and loss",
        "NPD through its gradient only",
        ONE_STEP,
        "late fusion: two seeds of IDs",
    ]
    without, fused = cells[1], cells[-1]
    assert fused.points(FIXED, 0, SEEDS)[0] == without.points(FIXED, 0, SEEDS)[0]
    of_quick = [cell.row for cell in cells_of("ablation", quick=True, has_frames=False)]
    assert of_quick == ["full", "w/o NPD", ONE_STEP, TWO_SEEDS]
    assert {cell.panel for cell in cells_of("sensitivity", False, False)} == {"npd"}
    assert len(cells_of("universality", False, False)) == SIZES["universality"][0]
    assert cells_of("ablation", False, True) == DESIGNS["ablation"](False)


def test_one_step_evaluates_the_full_model_once_more():
    cells = {cell.row: cell for cell in DESIGNS["ablation"](True)}
    full, one_step = cells["full"], cells[ONE_STEP]
    assert one_step.points(FIXED, 1, SEEDS) == full.points(FIXED, 1, SEEDS)
    assert one_step.sampler_steps == 1 and not one_step.is_trained


def test_baselines():
    ablation = DESIGNS["ablation"](False)
    assert baseline_of("ablation", ablation[0], ablation) is None
    assert baseline_of("ablation", ablation[3], ablation) == ablation[0]
    robustness = DESIGNS["robustness"](False)
    other = baseline_of("robustness", robustness[-1], robustness)
    assert (other.row, other.column) == ("full", robustness[-1].column)
    universality = DESIGNS["universality"](False)
    assert baseline_of("universality", universality[0], universality) == universality[1]
    sensitivity = DESIGNS["sensitivity"](False)
    weight, steps = default_of("npd")
    other = baseline_of("sensitivity", sensitivity[-1], sensitivity)
    assert (other.panel, other.row, other.column) == ("npd", str(weight), str(steps))
    assert baseline_of("sensitivity", other, sensitivity) is None
    small = DESIGNS["sensitivity"](True)
    assert all(baseline_of("sensitivity", cell, small) is None for cell in small)


def test_primary_comparisons_are_two():
    rows = {cell.row for cell in DESIGNS["ablation"](True)}
    assert PRIMARY == ("w/o TCD", "w/o NPD") and set(PRIMARY) < rows == set(QUICK)


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
        (["robustness", "--", "--model.feature_noise", "1"], "the study robustness varies it itself"),
    ],
)
def test_options_that_cannot_be_for_all_runs(arguments, message, tmp_path, capsys):
    at = arguments.index("--")
    paths = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["study", *arguments[:at], *paths, *arguments[at:]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_noise_needs_features(tmp_path, capsys):
    data = tmp_path / "data"
    synthesise(data, users=60, videos=24, frames=0)
    assert main(["study", "robustness", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert f"{data}: no frame features, and the study robustness" in capsys.readouterr().err


def test_data_sets_of_one_name_would_be_one_in_the_figure(make_data, tmp_path, capsys):
    data = str(make_data())
    assert main(["study", "ablation", "--data", data, data, "--out", str(tmp_path / "out")]) == 2
    assert (
        "two data sets are named synthetic-60x24: import one with another --name" in capsys.readouterr().err
    )
