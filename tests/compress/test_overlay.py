"""Settings are laid over the values of a recipe; one that fits nowhere is named."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from compress.overlay import assign
from compress.recipe import Recipe
from tests.compress.conftest import MINIMAL


@pytest.mark.parametrize(
    ("setting", "look", "value"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("stages.0.lr=5e-5", lambda r: r.stages[0].lr, 5e-5),
        ("task.text=[premise, hypothesis]", lambda r: r.task.text, ("premise", "hypothesis")),
        ("stages.0.techniques.1.temperature=1", lambda r: r.stages[0].techniques[1].fields["temperature"], 1),
        ("stages.0.techniques.1.temperature=5e-1", lambda r: r.stages[0].techniques[1].fields["temperature"], 0.5),
        ("student={use: truncated, layers: 3}", lambda r: r.student.fields, {"layers": 3}),
        ("export.int8=[static]", lambda r: r.export.int8, ("static",)),
        ("task.metric=null", lambda r: r.task.metric, None),
        ("task.dataset=a=b.csv", lambda r: r.task.dataset, "a=b.csv"),
    ],
)
def test_settings_lay_over(setting: str, look: Callable[[Recipe], Any], value: Any) -> None:
    values = deepcopy(MINIMAL)
    assign(values, setting)
    assert look(Recipe.of(values, "minimal")) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.2.lr=1", "a list of 1 is indexed with 0 to 0"),
        ("stages.x.lr=1", "is indexed with"),
        ("student.layers=3", "it has no keys"),
        ("seed", "takes key.path=value"),
    ],
)
def test_a_setting_that_fits_nowhere_is_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(deepcopy(MINIMAL), setting)
