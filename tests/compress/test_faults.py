"""Errors name what is wrong with a recipe and what to write instead; differences are named by their key."""

from copy import deepcopy

import pytest

from compress.faults import difference
from compress.overlay import assign
from compress.recipe import Recipe
from tests.compress.conftest import MINIMAL


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.datset=x", "no key 'task.datset'; did you mean 'dataset'"),
        ("stages.0.techniqes=[]", "did you mean 'techniques'"),
        ("teacher.epoch=1", "did you mean 'epochs'"),
        ("taks.label=x", "did you mean 'task'"),
        ("teacher.lr=-1", "teacher.lr"),
        ("task.text=[a, b, c]", "task.text"),
        ("seed.x=1", "seed: Input should be a valid integer"),
        ("stages=[]", "stages"),
    ],
)
def test_a_wrong_key_or_value_is_named(setting: str, message: str) -> None:
    values = deepcopy(MINIMAL)
    assign(values, setting)
    with pytest.raises(ValueError, match=message):
        Recipe.of(values, "minimal")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": {"b": [1, 2]}, "c": 0}, {"a": {"b": [1, 3]}, "c": 1}, "a.b.1 was 2, is 3"),
        ({"a": 1}, {"a": 1, "b": "x"}, "b was None, is 'x'"),
        ({"a": [1]}, {"a": [1, 2]}, "a was [1], is [1, 2]"),
    ],
)
def test_the_first_difference_is_named(before: object, now: object, told: str) -> None:
    assert difference(before, now) == told
