"""A teacher that follows its student, against the geometric series, in runs that stop and go on."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.distil.logits import LogitDistillation
from compress.prune.layers import LayerDrop
from compress.prune.magnitude import MagnitudePruning
from compress.recipe import Choice, TrainRecipe
from compress.regularise.slow_teacher import SlowTeacher
from compress.technique import Run, Technique
from compress.train import train
from compress.weights import linears
from tests.compress.toy import examples


def flat(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("updates", "expected"), [(1, 0.001), (693, 0.5001)])
def test_the_teacher_moves_a_thousandth_of_the_way(updates: int, expected: float) -> None:
    """From 0 towards a student that stays at 1: 1 - 0.999^k."""
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    for model, number in ((student, 1.0), (teacher, 0.0)):
        for weight in model.parameters():
            weight.data.fill_(number)
    technique = SlowTeacher()
    run = Run(student, {"it": technique}, steps=updates, teacher=teacher)
    run.prepare()
    for _ in range(updates):
        technique.after_update(run)
    assert flat(run.teacher).tolist() == pytest.approx([expected] * 8, abs=1e-4)
    assert flat(teacher).tolist() == [0.0] * 8  # the stage's own stays


class Watch(Technique):
    """What the teacher answers, and a stop."""

    def __init__(self, stop: int) -> None:
        self.stop, self.teacher = stop, []

    def after_update(self, run: Run) -> None:
        if run.step == self.stop:
            raise KeyboardInterrupt
        self.teacher.append(flat(run.teacher))


def trained(student: Any, folder: Path, *more: Technique, stop: int = 0, ema: float = 0.9) -> tuple[Run, Watch]:
    torch.manual_seed(0)
    watch = Watch(stop)
    chosen = [LogitDistillation(), *more, SlowTeacher(ema), watch]
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    run = Run(copy.deepcopy(student), {str(i): it for i, it in enumerate(chosen)}, steps=6, teacher=teacher)
    recipe = TrainRecipe(lr=1e-2, checkpoint=1, keep="last")
    cached = lambda: torch.zeros(48, 2)  # noqa: E731  (what a cache would answer)
    train(run, examples(), recipe, folder=folder, evaluate=lambda _: 0.0, title="", teacher_logits=cached)
    return run, watch


def test_no_cache_answers_for_a_teacher_that_moves(student: Any, tmp_path: Path) -> None:
    run, watch = trained(student, tmp_path)
    assert run.teacher_logits is None and run.cost["teacher"] == 48
    assert not torch.equal(watch.teacher[0], watch.teacher[-1]) and not run.teacher.training
    still = Run(student, {"it": LogitDistillation()}, steps=1, teacher=run.teacher)
    assert still.needs_only_logits and not run.needs_only_logits


def test_the_teacher_learns_the_weights_that_the_student_answers_with(student: Any, tmp_path: Path) -> None:
    """With ema 0 it is the student after each update: its zeros, too."""
    run, _ = trained(student, tmp_path, MagnitudePruning(final=0.5, last=0.5, every=0.25), ema=0.0)
    mine = run.model.state_dict()
    assert all(torch.equal(weight, mine[name]) for name, weight in run.teacher.state_dict().items())
    assert all(abs((layer.weight == 0).float().mean() - 0.5) < 0.01 for _, layer in linears(run.teacher))


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_has_the_teacher_that_it_had(stop: int, student: Any, tmp_path: Path) -> None:
    whole, _ = trained(student, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(student, tmp_path / "stopped", stop=stop)
    again, _ = trained(student, tmp_path / "stopped")
    assert torch.equal(flat(whole.teacher), flat(again.teacher)) and torch.equal(flat(whole.model), flat(again.model))


def test_another_teacher_is_refused(student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match="in the teacher and none in the student: give the stage `teacher: start`"):
        Run(student, {"it": SlowTeacher()}, steps=1, teacher=teacher).prepare()
    whole = copy.deepcopy(student)
    with pytest.raises(ValueError, match="cut layers in another"):
        Run(student, {"it": SlowTeacher(), "cut": LayerDrop(drop=1)}, steps=1, teacher=whole).prepare()


def test_a_rate_that_cannot_be_is_refused(student: Any) -> None:
    (technique,) = techniques((Choice(use="regularise/slow-teacher", ema=1.1),)).values()
    with pytest.raises(ValueError, match="ema must be in"):
        technique.prepare(Run(student, {}, steps=1))
