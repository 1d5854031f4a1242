"""SPACE.yaml: what it means, and what it refuses."""

from pathlib import Path

import pytest
import yaml

from trainer import options
from trainer.errors import UserError
from tune.space import load_space, parse_space

GRID = {
    "search": "grid",
    "space": {"model.tcd.loss_weight": [0.1, 1], "model.tcd.steps": {"choice": [2, 5, 10]}},
    "fixed": {"preset": "study", "train.tensorboard": False},
    "seeds": 2,
}


def test_a_grid_is_every_combination_and_seed_once():
    points = parse_space(GRID).points()
    assert len(points) == len({point.id for point in points}) == 12
    values = {(p.overrides["model.tcd.loss_weight"], p.overrides["model.tcd.steps"], p.seed) for p in points}
    assert values == {(w, t, s) for w in (0.1, 1.0) for t in (2, 5, 10) for s in (0, 1)}


def test_a_point_is_a_command_line_of_the_trainer():
    point = parse_space(GRID).points()[-1]
    config = options.parse(point.arguments())
    assert (config.preset, config.seed, config.train.tensorboard) == ("study", 1, False)
    assert (config.model.tcd.loss_weight, config.model.tcd.steps) == (1.0, 10)


def test_drawn_points_depend_on_the_space_alone():
    tree = {
        "search": "random",
        "trials": 50,
        "space": {
            "train.lr": {"loguniform": [1e-4, 1e-2]},
            "model.npd.mix": {"uniform": [0.2, 0.4]},
            "model.tcd.steps": {"uniform": [2, 50]},
            "model.backbone.name": ["sasrec", "gru4rec"],
        },
    }
    points = parse_space(tree).points()
    assert points == parse_space(tree).points() and len(points) == 50
    rates = [point.overrides["train.lr"] for point in points]
    assert 1e-4 <= min(rates) < 3e-4 and 3e-3 < max(rates) <= 1e-2
    assert all(0.2 <= point.overrides["model.npd.mix"] <= 0.4 for point in points)
    assert all(type(point.overrides["model.tcd.steps"]) is int for point in points)
    assert {point.overrides["model.backbone.name"] for point in points} == {"sasrec", "gru4rec"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"serach": "grid"}, "unknown key 'serach'; did you mean search?"),
        ({"search": "bayes"}, "search is 'bayes', expected one of grid, random, asha"),
        ({"space": {}}, "space is empty"),
        ({"space": {"model.tcd.steps": []}}, "model.tcd.steps has no values to try: the grid is empty"),
        (
            {"space": {"model.tcd.stpes": [1]}},
            "unknown option 'model.tcd.stpes'; did you mean model.tcd.steps?",
        ),
        ({"space": {"model.tcd.steps": ["many"]}}, "--model.tcd.steps 'many': expected INT"),
        ({"space": {"train.lr": {"uniform": [0, 1]}}}, "train.lr has a range: `search: grid` takes lists"),
        ({"space": {"seed": [1, 2]}}, "seed is decided by the sweep: use `seeds`"),
        ({"fixed": {"run.dir": "x"}}, "run.dir is decided by the sweep"),
        ({"fixed": {"model.tcd.steps": 3}}, "model.tcd.steps is both fixed and in the space"),
        ({"seeds": 0}, "seeds is 0, expected a number of seeds"),
        ({"metric": "recall"}, "metric is 'recall', expected one of hr@5"),
        ({"workers_per_trial": 0}, "workers_per_trial is 0, expected a whole number of at least 1"),
    ],
)
def test_mistakes_are_named(tmp_path, change, match):
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({**GRID, **change}))
    with pytest.raises(UserError) as caught:
        load_space(file)
    assert str(caught.value).startswith(f"{file}: ") and match in str(caught.value)


@pytest.mark.parametrize(
    ("name", "switches", "expected"),
    [
        ("recipe.yaml", ["model.npd.enabled"], 12),
        ("recipe-world.yaml", ["model.npd.enabled", "model.use_video"], 4),
        ("recipe-world-rates.yaml", ["model.npd.enabled", "model.use_video"], 9),
    ],
)
def test_the_examples_try_the_same_for_every_variant(name, switches, expected):
    variants = {}
    for point in load_space(Path(__file__).parents[2] / "examples" / name).points():
        options.parse(point.arguments())
        tried = dict(point.overrides)
        variant = tuple(tried.pop(switch) for switch in switches)
        variants.setdefault(variant, []).append(tried)
    assert len(variants) == 2 ** len(switches)
    first = variants.pop((True,) * len(switches))
    assert len(first) == expected and all(tried == first for tried in variants.values())


@pytest.mark.parametrize(
    "ends", [[1, 0], [0, 1, 2], 3, ["a", "b"], [1, float("inf")], [1, 10**400], [True, 2]]
)
def test_ranges_have_two_ends(ends):
    with pytest.raises(UserError, match=r"expected \[low, high\] with 0 < low < high"):
        parse_space({"search": "random", "space": {"train.lr": {"loguniform": ends}}})


@pytest.mark.parametrize(
    ("name", "ends"), [("train.lr", [-1.7e308, 1.7e308]), ("model.tcd.steps", [1, 10**20])]
)
def test_ranges_that_no_number_can_measure(name, ends):
    with pytest.raises(UserError, match=f"{name}: uniform is .*, expected numbers up to"):
        parse_space({"search": "random", "space": {name: {"uniform": ends}}})
