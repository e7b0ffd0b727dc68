"""From the study's text to the recipe of each run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.recipe import Recipe
from compress.study.plan import Job, Study, jobs, overruled
from tests.compress.study.conftest import BASE

Write = Callable[..., Path]


def planned(path: Path) -> list[Job]:
    return jobs(Study.read(path), path.parent)


def test_every_arm_runs_on_every_task_with_the_tasks_seeds(write_study: Write) -> None:
    names = [job.name for job in planned(write_study())]
    assert names == ["dense/cola/0", "sparse/cola/0", "dense/sst2/0", "sparse/sst2/0", "dense/cola/1", "sparse/cola/1"]


def test_the_documented_study_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "studies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(BASE, encoding="utf-8")
    (tmp_path / "other.yaml").write_text(BASE, encoding="utf-8")
    assert len(planned(tmp_path / "study.yaml")) == 3 * (3 + 1)


def test_the_later_layer_wins(write_study: Write) -> None:
    """base < arm < task < the arm's word on the task < seed"""
    path = write_study(
        ("sst2: {task.label: sst2", "sst2: {task.label: sst2, stages.0.epochs: 7, stages.0.warmup: 0.3"),
        ("sparse: {stages.0.lr: 0.25", "sparse: {stages.0.lr: 0.25, stages.0.epochs: 5, stages.0.weight_decay: 0.2, "
         "tasks: {sst2: {stages.0.warmup: 0.4}}"),
    )  # fmt: skip
    found = {job.name: job.recipe for job in planned(path)}
    dense, sparse, elsewhere = found["dense/sst2/0"], found["sparse/sst2/0"], found["sparse/cola/1"]
    assert (dense.stages[0].lr, dense.stages[0].epochs, dense.stages[0].warmup) == (0.5, 7, 0.3)
    assert (sparse.stages[0].lr, sparse.stages[0].epochs, sparse.stages[0].warmup) == (0.25, 7, 0.4)
    assert (elsewhere.stages[0].epochs, elsewhere.stages[0].weight_decay, elsewhere.seed) == (5, 0.2, 1)
    assert [*overruled(Study.read(path))] == [
        "arms.sparse says stages.0.epochs: 5, task sst2 says 7, which holds; "
        "arms.sparse.tasks.sst2 would hold over both"
    ]


def test_tasks_may_share_keys(write_study: Write) -> None:
    """YAML's own way: a task's keys under a name, merged into another, whose own win."""
    path = write_study(
        ("cola: {", "cola: &shared {stages.0.epochs: 7, "),
        ("sst2: {", "sst2: {<<: *shared, stages.0.warmup: 0.3, "),
    )
    stages = {job.name: job.recipe.stages[0] for job in planned(path)}
    assert stages["dense/cola/0"].epochs == stages["dense/sst2/0"].epochs == 7
    assert stages["dense/sst2/0"].warmup == 0.3


def test_an_arm_may_have_a_recipe_of_its_own(write_study: Write, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(BASE.replace("0.5", "0.75"), encoding="utf-8")
    path = write_study(("sparse: {", "sparse: {recipe: other.yaml, stages.0.epochs: 2, "), ("stages.0.lr: 0.25", ""))
    found = {job.name: job.recipe.stages[0] for job in planned(path)}
    assert (found["dense/cola/0"].lr, found["sparse/cola/0"].lr, found["sparse/cola/0"].epochs) == (0.5, 0.75, 2)


def test_a_recipe_is_known_by_what_it_does(write_study: Write, tmp_path: Path) -> None:
    """Neither a name nor a default that is written out makes another run of it; a seed does."""
    (tmp_path / "other.yaml").write_text(BASE, encoding="utf-8")
    path = write_study(("sparse: {stages.0.lr: 0.25}", "same: {recipe: other.yaml, stages.0.warmup: 0.1}"))
    found = {job.name: job.digest for job in planned(path)}
    assert found["dense/cola/0"] == found["same/cola/0"] != found["dense/cola/1"]


def test_runs_that_share_a_teacher_are_known(write_study: Write) -> None:
    found = {job.name: job.shares for job in planned(write_study())}
    assert found["dense/cola/0"] & found["sparse/cola/0"]
    assert not found["dense/cola/0"] & found["dense/cola/1"] and not found["dense/cola/0"] & found["dense/sst2/0"]


def test_runs_that_share_pretraining_are_known(write_study: Write) -> None:
    """Of another seed they do, too, unless the corpus takes its seed from the run."""
    more = "pretraining: [{techniques: [supervised]}], corpus: {texts: [{dataset: some}]"
    for seed, shared in (("0", True), ("null", False)):
        path = write_study(("stages.0.lr: 0.25", f"{more}, seed: {seed}}}"))
        found = {job.name: job.shares for job in planned(path)}
        assert bool(found["sparse/cola/0"] & found["sparse/cola/1"]) == shared


def test_settings_of_one_run_do_not_leak_into_another(write_study: Write) -> None:
    """An override that is a list is laid over by a second one in some runs only."""
    path = write_study(
        ("sparse: {stages.0.lr: 0.25}", "sparse: {stages.0.techniques: [{use: distil/logits}], "
         "tasks: {cola: {stages.0.techniques.0.temperature: 3}}}"),
    )  # fmt: skip
    found = {job.name: job.recipe.stages[0].techniques[0].fields for job in planned(path)}
    assert (found["sparse/cola/0"], found["sparse/sst2/0"]) == ({"temperature": 3}, {})


def test_a_recipe_that_comes_along_is_a_base(write_study: Write) -> None:
    path = write_study(("base.yaml", "tinybert"))
    assert planned(path)[0].recipe.stages == Recipe.read("tinybert").stages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("baseline: dense", "baseline: dens"), "baseline must be one of the arms; did you mean 'dense'"),
        (("seeds: [0, 1]\n", "seedz: [0]\n"), "there is no key 'seedz'; did you mean 'seeds'"),
        (("seeds: [0, 1]\n", "seeds: [1, 1]\n"), "a seed stands there twice"),
        (("seeds: [0, 1]\n", "seeds: []\n"), "seeds"),
        (("stages.0.lr: 0.25", "stages.0.lr: -1"), "arm sparse, task cola: stages.0.lr"),
        (("stages.0.lr: 0.25", "stages.0.warmap: 1"), "did you mean 'warmup'"),
        (("stages.0.lr: 0.25", "stages.4.lr: 1"), "arms.sparse, stages.4.lr: a list of 1 is indexed with 0 to 0"),
        (("stages.0.lr: 0.25", "stagez.0.lr: 1"), "no key 'stagez.0.lr'; did you mean 'stages'"),
        (("stages.0.lr: 0.25", "seed: 1"), "'seed' is the study's to set"),
        (("stages.0.lr: 0.25", "tasks: {mrpc: {}}"), "there is no task 'mrpc'"),
        (("stages.0.lr: 0.25", "recipe: nowhere.yaml"), "no such file: nowhere.yaml"),
        (("  sparse: {", "  dense: {"), "the key 'dense' stands there twice"),
        (("seeds: [0]}", "seedz: [0]}"), "no key 'seedz'; did you mean 'seeds'"),
        (("base: base.yaml", ""), "base is missing"),
        (("base: base.yaml", "measures: ["), "is not YAML"),
    ],
)
def test_what_cannot_be_is_one_error(change: tuple[str, str], message: str, write_study: Write) -> None:
    with pytest.raises(ValueError, match=message):
        planned(write_study(change))
