"""Recipes are read strictly, and errors name what to write instead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.recipe import RECIPES, Recipe, place

MINIMAL = {
    "task": {"dataset": "reviews.csv"},
    "teacher": {"model": "encoder"},
    "student": "truncated",
    "stages": [{"techniques": ["supervised", {"use": "distil/logits", "temperature": 4}]}],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
    return file


def test_a_short_recipe_is_filled_with_defaults(path: Path) -> None:
    recipe = Recipe.read(path)
    assert (recipe.name, recipe.seed, recipe.student.use) == ("mine", 0, "truncated")
    assert recipe.stages[0].techniques[1].fields == {"temperature": 4}


def test_what_is_written_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.read(path, ["stages.0.lr=3e-4"])
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(recipe.plain()), encoding="utf-8")
    assert Recipe.read(again) == recipe


@pytest.mark.parametrize(
    ("setting", "look", "value"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("stages.0.lr=5e-5", lambda r: r.stages[0].lr, 5e-5),
        ("task.text=[premise, hypothesis]", lambda r: r.task.text, ("premise", "hypothesis")),
        ("stages.0.techniques.1.temperature=1", lambda r: r.stages[0].techniques[1].fields["temperature"], 1),
        ("student={use: truncated, layers: 3}", lambda r: r.student.fields, {"layers": 3}),
        ("export.int8=[static]", lambda r: r.export.int8, ("static",)),
        ("task.metric=null", lambda r: r.task.metric, None),
        ("task.dataset=a=b.csv", lambda r: r.task.dataset, "a=b.csv"),
    ],
)
def test_settings_lay_over(path: Path, setting: str, look: Callable[[Recipe], Any], value: Any) -> None:
    assert look(Recipe.read(path, [setting])) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.datset=x", "no key 'task.datset'; did you mean 'dataset'"),
        ("stages.0.techniqes=[]", "did you mean 'techniques'"),
        ("teacher.epoch=1", "did you mean 'epochs'"),
        ("taks.label=x", "did you mean 'task'"),
        ("teacher.lr=-1", "teacher.lr"),
        ("task.text=[a, b, c]", "task.text"),
        ("stages.2.lr=1", "a list of 1 is indexed with 0 to 0"),
        ("stages.x.lr=1", "is indexed with"),
        ("student.layers=3", "it has no keys"),
        ("seed.x=1", "seed: Input should be a valid integer"),
        ("seed", "takes key.path=value"),
        ("stages=[]", "stages"),
    ],
)
def test_a_wrong_key_or_value_is_named(path: Path, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.read(path, [setting])


def test_an_unknown_recipe_lists_those_that_come_along() -> None:
    with pytest.raises(ValueError, match="tinybert"):
        Recipe.read("tinybertt")


@pytest.mark.parametrize("text", ["- 1", "a: [", "\x00"])
def test_what_is_no_mapping_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mapping|YAML"):
        Recipe.read(path)


def test_places_take_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANTAM_DATA", "/data")
    assert place("${BANTAM_DATA}/sst2") == "/data/sst2"
    with pytest.raises(ValueError, match="BANTAM_NOWHERE, which is not set"):
        place("${BANTAM_NOWHERE}/sst2")


def test_recipes_that_come_along_are_whole() -> None:
    paths = sorted(RECIPES.glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        assert Recipe.read(path.stem).name == path.stem


def test_one_teacher_may_serve_all_seeds_of_a_student() -> None:
    """Its name in the cache is of its own seed, the split's and nothing of the student's."""
    from compress.teacher import seed_of

    own, given = (Recipe.read("demo", ["seed=3", *more]) for more in ([], ["task.seed=0", "teacher.seed=1"]))
    assert (own.split_seed, seed_of(own)) == (3, 3)
    assert (given.split_seed, seed_of(given)) == (0, 1)
