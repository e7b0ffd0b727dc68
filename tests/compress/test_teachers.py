"""Several teachers in one recipe, and a student of their mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress import catalogue
from compress.data.load import load
from compress.distil.ensemble import EnsembleDistillation, averaged
from compress.distil.logits import LogitDistillation, soft_loss
from compress.pipeline import compress, rehearse
from compress.recipe import Recipe, TeacherRecipe
from compress.stage import autocast_for
from compress.study.plan import Job
from compress.supervised import task_loss
from compress.teacher import teachers
from compress.technique import Run, Step
from serve import artefact
from serve.runtime import Session
from tests.compress.conftest import MINIMAL, tiny_bert

DIGEST = "a5299fb3db612c7d"  # of MINIMAL, by a Bantam that knew one teacher only
TEXTS = [("the film", "a fine moving film"), ("cast and plot", "dull and flat")]


# What a recipe says


def test_one_teacher_leaves_recipes_known_as_before() -> None:
    recipe = Recipe.of(MINIMAL, "test")
    assert recipe.teachers == () and [one.teacher for one in recipe.taught] == [recipe.teacher]
    assert recipe.taught[0] == recipe
    assert Job("arm", "task", 0, recipe).digest == DIGEST
    assert Job("arm", "task", 0, Recipe.of({**MINIMAL, "teachers": []}, "test")).digest == DIGEST
    more = Recipe.of({**MINIMAL, "teachers": [{"model": "encoder"}]}, "test")
    assert Job("arm", "task", 0, more).digest != DIGEST


def test_each_teacher_is_made_once_whoever_names_it() -> None:
    def job(*models: str) -> Job:
        named = {"teacher": {"model": models[0]}, "teachers": [{"model": name} for name in models[1:]]}
        return Job("arm", "task", 0, Recipe.of({**MINIMAL, **named}, "test"))

    assert len(job("a").shares) == 1 and len(job("a", "b").shares) == 2
    assert job("a", "b").shares == job("b", "a").shares == job("a", "b", "a").shares
    assert job("a").shares < job("b", "a").shares and not job("a").shares & job("b").shares


def test_a_misspelt_key_of_another_teacher_is_named() -> None:
    with pytest.raises(ValueError, match=r"'teachers.0.epoch'; did you mean 'epochs'"):
        Recipe.of({**MINIMAL, "teachers": [{"model": "b", "epoch": 1}]}, "test")


# What a technique sees


def step_of(student: Any, teacher: Any, batch: dict[str, Any], *others: torch.Tensor) -> Step:
    """A step of a run whose other teachers have these logits [N, C] on all training rows."""
    stacked = torch.stack(others, 1) if others else None
    run = Run(student.eval(), {}, 1, teacher=teacher, others=len(others), others_logits=stacked)
    return Step(run, batch)


def test_the_teachers_of_a_step_are_in_the_recipes_order(student: Any, teacher: Any, batch: dict[str, Any]) -> None:
    one, two = torch.randn(9, 2), torch.randn(9, 2)
    batch["rows"] = torch.tensor([5, 0, 8, 1])
    step = step_of(student, teacher, batch, one, two)
    assert len(step.teachers) == 3 and step.teachers[0] is step.teacher
    assert torch.equal(step.teachers[1].logits, one[batch["rows"]])
    assert torch.equal(step.teachers[2].logits, two[batch["rows"]])
    assert step_of(student, teacher, batch).teachers[0].logits.shape == (4, 2)


# Their mean


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_probabilities_are_averaged_at_the_temperature(temperature: float) -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)) * 3
    expected = (logits / temperature).softmax(-1).mean(0)
    assert torch.allclose((averaged(logits, temperature) / temperature).softmax(-1), expected, atol=1e-6)


def test_opposite_teachers_ask_for_the_middle() -> None:
    """Probabilities, not logits: of (6, 0) and (0, 2) the mean of logits would prefer the first class by far more."""
    opposite = torch.tensor([[[6.0, 0.0]], [[0.0, 6.0]]])
    assert soft_loss(torch.zeros(1, 2), averaged(opposite, 2.0), 2.0).item() == pytest.approx(0, abs=1e-6)
    sure, unsure = torch.tensor([[[6.0, 0.0]], [[0.0, 2.0]]])
    odds = torch.softmax(averaged(torch.stack([sure, unsure])), -1)[0, 0].item()
    assert odds == pytest.approx((1 / (1 + np.exp(-6)) + 1 / (1 + np.exp(2))) / 2, abs=1e-6)


def test_one_teacher_is_distil_logits(student: Any, teacher: Any, batch: dict[str, Any]) -> None:
    step = step_of(student, teacher, batch)
    mine = EnsembleDistillation(temperature=3.0, soft_weight=0.7).loss(step)
    theirs = LogitDistillation(temperature=3.0, soft_weight=0.7).loss(step)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_the_loss_is_against_the_mean_and_the_labels(student: Any, teacher: Any, batch: dict[str, Any]) -> None:
    """Oracle: cross-entropy of the mean probabilities less their entropy."""
    other = torch.randn(4, 2)
    step = step_of(student, teacher, batch, other)
    p = ((step.teacher.logits / 2).softmax(-1) + (other / 2).softmax(-1)) / 2
    q = (step.student.logits / 2).softmax(-1)
    kl = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    expected = 0.5 * kl + 0.5 * task_loss(step.student.logits, batch["labels"])
    assert EnsembleDistillation().loss(step).item() == pytest.approx(expected.item(), abs=1e-6)


def test_scores_are_averaged_as_they_are() -> None:
    assert averaged(torch.tensor([[[1.0]], [[4.0]]]), 2.0).tolist() == [[2.5]]


# The whole line


def settings(toy_settings: list[str], questions: Path, others: list[dict[str, Any]], *more: str) -> list[str]:
    task = [f"task.dataset={questions}", "task.text=[question, answer]", "task.label=label", "task.metric=map"]
    return [*toy_settings, *task, f"teachers={json.dumps(others)}", "export.int8=[]", *more]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_each_teacher_reads_the_texts_in_its_own_way(
    cache: Path, toy_settings: list[str], questions: Path, others: list[dict[str, Any]]
) -> None:
    """Oracle: transformers' own tokenizer and model, read back from each teacher in the cache."""
    quick = "teacher.epochs=1"
    recipe = Recipe.read("ensemble", settings(toy_settings, questions, others, quick))
    recipe = recipe.model_copy(update={"teachers": tuple(t.model_copy(update={"epochs": 1}) for t in recipe.teachers)})
    accelerator = Accelerator(cpu=True)
    data = load(recipe.task, seed=0)
    found = teachers(recipe, data, accelerator)
    assert len({one.key for one in found}) == 3
    assert found[0].key == teachers(recipe.taught[0], data, accelerator)[0].key
    vocabularies = [one.pieces.vocabulary() for one in found]
    assert vocabularies[0] == vocabularies[1] != vocabularies[2]
    for one in found:
        logits = one.logits(data.train, accelerator, autocast_for("fp32", accelerator.device))
        folder = cache / "teachers" / one.key
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for row in range(0, len(data.train), 50):
            inputs = tokenizer(*data.train.texts[row], truncation=True, max_length=16, return_tensors="pt")
            accepted = {name: value for name, value in inputs.items() if name in one.artefact.manifest.encoder.inputs}
            with torch.no_grad():
                expected = model(**accepted).logits[0].numpy()
            np.testing.assert_allclose(logits[row], expected, atol=1e-4)


def test_the_recipe_that_comes_along_learns_from_all(
    cache: Path, toy_settings: list[str], questions: Path, others: list[dict[str, Any]], tmp_path: Path
) -> None:
    short = ["stages.0.epochs=4", "stages.0.lr=0.003", "stages.0.evaluations=1"]
    twice = [*others[:1], *others[:1]]  # one that teaches twice is trained once
    made = compress(Recipe.read("ensemble", settings(toy_settings, questions, twice, *short)), tmp_path / "student")
    assert made.manifest.metrics["test"]["torch"]["value"] > 0.8
    assert [one["model"] for one in made.manifest.teacher["others"]] == [twice[0]["model"]] * 2
    stages = [cost["stage"] for cost in made.manifest.provenance["cost"]]
    assert stages == ["teacher", "teacher", "stage 1 of 1"]
    rows = made.manifest.provenance["cost"][-1]["teacher"]
    assert rows == 3 * len(load(made_recipe(made).task, seed=0).train)
    assert len(list((cache / "teachers").glob("*/manifest.json"))) == 2
    assert Session(made).predict(TEXTS).scores.shape == (2, 2)


def made_recipe(made: artefact.Artefact) -> Recipe:
    return Recipe.of(made.manifest.recipe, "test")


def refused(recipe: Recipe, match: str) -> None:
    student = catalogue.make(recipe.student, catalogue.STUDENTS)
    data = load(recipe.task, seed=0)
    with pytest.raises(ValueError, match=match):
        rehearse(recipe, data, data.train, student, Accelerator(cpu=True))


def test_teachers_that_nobody_learns_from_are_refused(
    toy_settings: list[str], questions: Path, others: list[dict[str, Any]]
) -> None:
    names = settings(toy_settings, questions, others, "stages.0.techniques=[supervised, distil/logits]")
    refused(Recipe.read("ensemble", names), "no stage learns from several")


def test_a_teacher_with_other_labels_is_refused_before_anything_trains(
    toy: Path, toy_settings: list[str], questions: Path, others: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = tiny_bert(layers=2, width=16, seed=0, vocabulary=39, labels=3)
    model.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(toy / "encoder").save_pretrained(tmp_path / "three")
    three = {"model": str(tmp_path / "three"), "epochs": 0}
    for named in ([*others, three], [three]):
        recipe = Recipe.read("ensemble", settings(toy_settings, questions, named))
        refused(recipe, r"three must give the 2 labels \['0', '1'\]; it gives \['LABEL_0', 'LABEL_1', 'LABEL_2'\]")
    alone = Recipe.read("logits", settings(toy_settings, questions, [], "student.layers=1"))
    refused(alone.model_copy(update={"teacher": TeacherRecipe(**three)}), "must give the 2 labels")
    tiny_bert(layers=2, width=16, seed=0, vocabulary=39).save_pretrained(tmp_path / "three")
    config = json.loads((tmp_path / "three" / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (tmp_path / "three" / "config.json").write_text(json.dumps(config))
    recipe = Recipe.read("ensemble", settings(toy_settings, questions, [three]))
    refused(recipe, r"must give the labels \['0', '1'\]; it gives \['no', 'yes'\]")
