"""Continuation-KD: numbers by hand, its schedules, and the methods that it contains."""

import copy
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.distil.continuation import Continuation, hinge, label_weight, teacher_scale
from compress.distil.logits import LogitDistillation
from compress.recipe import Choice, TrainRecipe
from compress.supervised import Supervised
from compress.technique import Run, Step, Technique
from compress.train import train
from tests.compress.toy import examples

TEACHER, STUDENT = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 0.0]])


@pytest.mark.parametrize(("scale", "expected"), [(0.1, 0.490), (0.5, 0.450), (1.0, 4.900)])
def test_errors_by_hand(scale: float, expected: float) -> None:
    """(1 - 3 phi)^2 + phi^2 - 0.1 phi."""
    assert hinge(STUDENT, TEACHER, scale, 0.1).item() == pytest.approx(expected, abs=1e-6)


def test_each_example_has_a_margin_of_its_own() -> None:
    """Squared errors of .01, .02 and 8, forgiven up to 1: the small ones end, the large one goes on."""
    student = torch.tensor([[0.1, 0.0], [0.1, 0.1], [2.0, 2.0]], requires_grad=True)
    loss = hinge(student, torch.zeros(3, 2), 0.5, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx((8 - 1) / 3)
    assert student.grad.tolist() == [[0, 0], [0, 0], [pytest.approx(4 / 3), pytest.approx(4 / 3)]]


def test_the_teacher_is_scaled_and_the_student_is_not() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3)
    hinge(student, teacher, 0.3, 0.0).backward()
    assert torch.allclose(student.grad, 2 * (student.detach() - 0.3 * teacher) / 4)


@pytest.mark.parametrize(("steps", "temperatures"), [(7, 7), (100, 100), (25, 10), (30, 10), (1000, 20), (9, 1)])
def test_the_teacher_grows_in_equal_stages(steps: int, temperatures: int) -> None:
    scales = [teacher_scale(step / steps, temperatures) for step in range(steps)]
    assert [s for s, _ in itertools.groupby(scales)] == [
        pytest.approx((i + 1) / temperatures) for i in range(temperatures)
    ]
    lengths = [len([*group]) for _, group in itertools.groupby(scales)]
    assert max(lengths) - min(lengths) <= 1


def test_label_weights_are_those_of_the_paper() -> None:
    """30 epochs of GLUE: i / 40 up to epoch 20, then 1; 200 of CIFAR: i / 150 up to 150, then 1."""
    at = lambda epoch, of, *how: label_weight(epoch / of, *how)  # noqa: E731
    assert [at(i, 30, 0.75, 2 / 3) for i in (0, 10, 19, 20, 29)] == pytest.approx([0, 0.25, 19 / 40, 1, 1])
    assert [at(i, 200, 4 / 3, 0.75) for i in (0, 75, 149, 150, 199)] == pytest.approx([0, 0.5, 149 / 150, 1, 1])
    assert [label_weight(p, 0, 1) for p in (0, 0.5, 0.999)] == [0, 0, 0]
    assert [label_weight(p, 0, 0) for p in (0, 0.5)] == [1, 1]


def term(technique: Technique, student: Any, teacher: Any, batch: Any, *, step: int = 0, **run_fields: Any) -> Tensor:
    run = Run(student.eval(), {"it": technique}, steps=10, teacher=teacher.eval(), **run_fields)
    run.step = step
    run.sample = lambda count: iter([batch] * (count > 0))
    run.prepare()
    return technique.loss(Step(run, batch))


def test_at_one_temperature_it_is_the_distance_of_logits(student: Any, teacher: Any, batch: Any) -> None:
    mine = term(Continuation(max_temperature=1, margin=0, slope=0, alone=1), student, teacher, batch)
    plain = term(LogitDistillation(targets="logits", soft_weight=1), student, teacher, batch)
    assert mine.item() == pytest.approx(plain.item(), rel=1e-6) and mine > 0


def test_when_labels_stand_alone_it_is_fine_tuning(student: Any, teacher: Any, batch: Any) -> None:
    late = term(Continuation(), student, teacher, batch, step=7)
    assert torch.equal(late, term(Supervised(), student, teacher, batch))


def test_halfway_both_terms_count(student: Any, teacher: Any, batch: Any) -> None:
    """At 0.5 of the run psi is .375 and phi, at 10 temperatures, .6; the margin is a tenth of the mean squared norm."""
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    z_s, z_t = student.eval()(**inputs).logits, teacher(**inputs).logits
    errors = ((z_s - 0.6 * z_t) ** 2).sum(-1)
    forgiven = 0.6 * 0.1 * (z_t**2).sum(-1).mean()
    expected = 0.375 * F.cross_entropy(z_s, batch["labels"]) + 0.625 * (errors - forgiven).clamp(min=0).mean()
    assert term(Continuation(), student, teacher, batch, step=5).item() == pytest.approx(expected.item(), rel=1e-5)


def test_scores_are_regressed_too(student: Any, teacher: Any, batch: Any) -> None:
    for model in (student, teacher):
        model.classifier = nn.Linear(16, 1)
    batch = batch | {"labels": torch.rand(4)}
    mine = term(Continuation(), student, teacher, batch, step=9, kind="regression")
    assert torch.equal(mine, term(Supervised(), student, teacher, batch, kind="regression"))
    assert term(Continuation(margin=0), student, teacher, batch, kind="regression") > 0


@dataclass
class Annealing(Technique):
    """Jafari et al. 2021 written again: phase 1 with the temperature counted up, phase 2 on gold labels."""

    first: int  # updates of phase 1
    temperatures: int
    kinds: ClassVar = ("classification",)
    needs: ClassVar = ("teacher",)

    def loss(self, step: Step) -> Tensor:
        done = step.run.step
        if done >= self.first:
            return nn.CrossEntropyLoss()(step.student.logits, step.batch["labels"])
        temperature = 1 + done * self.temperatures // self.first
        error = nn.MSELoss(reduction="sum")(step.student.logits, step.teacher.logits * temperature / self.temperatures)
        return error / len(step.batch["labels"])


def trained(technique: Technique, student: Any, teacher: Any, folder: Path) -> Tensor:
    torch.manual_seed(0)
    run = Run(copy.deepcopy(student), {"it": technique}, steps=18, teacher=teacher.requires_grad_(False))
    options = TrainRecipe(lr=1e-3, evaluations=1, keep="last", precision="fp32")
    train(run, examples(), options, folder=folder, evaluate=lambda _: 0.0, title="")
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_without_margin_and_early_labels_it_is_annealing(student: Any, teacher: Any, tmp_path: Path) -> None:
    fields = {"margin": 0, "slope": 0, "max_temperature": 7, "alone": 14 / 18, "growth": 14 / 18}
    mine = trained(Continuation(**fields), student, teacher, tmp_path / "mine")
    theirs = trained(Annealing(14, 7), student, teacher, tmp_path / "theirs")
    slower = trained(Continuation(**fields | {"growth": 1}), student, teacher, tmp_path / "slower")
    assert (mine - theirs).norm() < 0.02 * (mine - slower).norm()  # but for rounding, of which Adam makes steps


def test_a_line_fitted_to_a_scaled_teacher_is_the_scaled_fit() -> None:
    """Linear student, one stage: the optimum is phi times the least-squares fit, which lstsq gives."""
    generator = torch.Generator().manual_seed(0)
    x, z_t = torch.randn(40, 3, generator=generator), torch.randn(40, 2, generator=generator)
    weight = torch.zeros(3, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = hinge(x @ weight, z_t, 0.4, 0.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(weight, 0.4 * torch.linalg.lstsq(x, z_t).solution, atol=1e-4)


def test_the_norm_is_that_of_the_training_texts(student: Any, teacher: Any) -> None:
    data, technique = examples(), Continuation(examples=10)
    run = Run(student, {"it": technique}, steps=1, teacher=teacher)
    run.sample = lambda count: iter([batch for step in range(-(-count // 8)) for batch in data.update(step)])
    run.prepare()
    seen = [teacher(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in run.sample(10)]
    assert technique.norm == pytest.approx(torch.cat(seen).pow(2).sum(-1).mean().item(), rel=1e-5)
    assert run.cost["teacher"] == 16


def test_where_the_teacher_cannot_read_the_inputs_the_norm_is_that_of_its_cached_logits() -> None:
    """n-grams are no word pieces: a student without blocks, and logits of all training rows."""
    technique, logits = Continuation(margin=0.5), torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2).eval()
    run = Run(student, {"it": technique}, steps=10, teacher=teacher, teacher_logits=logits)
    run.sample = lambda _: iter([{"input_ids": torch.zeros(1, 2), "rows": torch.arange(1)}])
    run.prepare()
    step = Step(run, {"labels": torch.zeros(2, dtype=torch.long), "rows": torch.tensor([0, 1])})
    step.student = SimpleNamespace(logits=torch.zeros(2, 2))
    assert technique.loss(step).item() == pytest.approx(0)  # .01 x 25 and .01 x 1, of which 0.5 x 26 / 3 x 0.1 are free
    run.step = 6  # phi is .7, psi .45: .49 x 25 - .7 x 13 / 3 of one text, nothing of the other
    expected = 0.45 * math.log(2) + 0.55 * (0.49 * 25 - 0.7 * 13 / 3) / 2
    assert technique.loss(step).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_temperature": 0}, "max_temperature must be 1 or more, got 0"),
        ({"margin": -0.1}, "margin must be 0 or more"),
        ({"alone": 1.5}, "alone must be 0 to 1, got 1.5"),
        ({"growth": 0}, "growth must be above 0"),
        ({"slope": 2}, "slope must be such that slope x alone"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], message: str, student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match=message):
        Run(student, techniques((Choice(use="distil/continuation", **fields),)), steps=1, teacher=teacher).prepare()
