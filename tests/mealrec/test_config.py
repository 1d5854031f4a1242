"""Configurations that cannot work are refused, with the field and its value."""

import pytest

from mealrec import ConfigError, MealRec
from tests.mealrec.small import make_config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"videos": 0}, "model.videos is 0"),
        ({"width": 0}, "model.width is 0"),
        ({"dim": 15}, "model.dim is 15"),
        ({"backbone__heads": 3}, "model.backbone.heads is 3, expected a divisor of dim 16"),
        ({"tcd__steps": 0}, "model.tcd.steps is 0"),
        ({"npd__mix": 1.5}, "model.npd.mix is 1.5"),
        ({"tcd__infer_start": 10}, "model.tcd.infer_start is 10, expected -1 .. 9"),
    ],
)
def test_bad_configuration(fields, message):
    with pytest.raises(ConfigError, match=message):
        MealRec(make_config(**fields))
