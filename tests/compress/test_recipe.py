"""Recipes are read strictly, and what they leave out is filled in."""

from pathlib import Path

import pytest
import yaml

from compress.recipe import RECIPES, Recipe, place
from tests.compress.conftest import MINIMAL


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
