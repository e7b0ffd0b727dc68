"""Techniques of one stage do not know of one another; every ordered pair trains and leaves a plain student."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import evaluate
from compress.anatomy import blocks
from compress.catalogue import TECHNIQUES, techniques
from compress.prune import structured
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run, Technique
from compress.train import clipped_step, train
from compress.widths import keep_blocks, shrink
from tests.compress.toy import examples

CHOICES = {name: Choice(use=name) for name, technique in TECHNIQUES.items() if "classification" in technique.kinds}
CHOICES["distil/minilm-v2"] = Choice(use="distil/minilm-v2", relation_heads=4)  # the toy models are 16 wide
CHOICES["prune/lock"] = Choice(use="prune/lock", at_least=0)  # the toy student is dense
CHOICES["distil/tinybert, prediction"] = Choice(use="distil/tinybert", stage="prediction")
APART = {"prune/layers", "regularise/slow-teacher"}  # a whole teacher cannot follow a student that loses layers
PAIRS = [pair for pair in itertools.permutations(CHOICES, 2) if set(pair) != APART]


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks take time by their units: files to be timed would cost each pair seconds."""
    monkeypatch.setattr(
        structured, "times", lambda _m, stacks, _s: [sum(1 + h + f for h, f in widths) for widths in stacks]
    )


def trained(student: Any, teacher: Any, chosen: tuple[Choice, ...], folder: Path, **options: Any) -> Run:
    made = techniques(chosen)
    if any(technique.moves_teacher for technique in made.values()):
        teacher = copy.deepcopy(student).eval()  # it must be of the student's shapes, as with `teacher: start`
    run = Run(student, made, steps=12, teacher=teacher.requires_grad_(False))
    recipe = TrainRecipe(**{"lr": 1e-3, "evaluations": 2, "precision": "fp32"} | options)
    train(run, examples(accumulate=recipe.accumulate), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return run


def assert_plain(run: Run, begun: Any) -> None:
    """`begun` is a copy of the student as it was before; techniques that cut it said what they keep."""
    assert type(run.model) is type(begun)
    keep_blocks(begun, range(len(blocks(run.model))))
    if run.keep is not None:
        shrink(begun, run.keep)
    shapes = {name: value.shape for name, value in begun.state_dict().items()}
    assert {name: value.shape for name, value in run.model.state_dict().items()} == shapes
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())
    hooks = [h for m in run.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [h for h in hooks if getattr(h, "__module__", "").startswith("compress")]
    assert not run.model.training


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_pair_leaves_a_plain_student(pair: tuple[str, str], student: Any, teacher: Any, tmp_path: Path) -> None:
    begun = copy.deepcopy(student)
    before = [p.clone() for p in teacher.parameters()]

    chosen = (Choice(use="supervised"), *(CHOICES[name] for name in pair))
    run = trained(student, teacher, chosen, tmp_path)

    assert_plain(run, begun)
    assert len(run.terms) == 1 + sum(type(t).loss is not Technique.loss for t in [*run.techniques.values()][1:])
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_all_at_once_in_micro_batches(student: Any, teacher: Any, tmp_path: Path) -> None:
    begun = copy.deepcopy(student)
    chosen = tuple(choice for choice in CHOICES.values() if choice.use != "regularise/slow-teacher")
    run = trained(student, teacher, chosen, tmp_path, accumulate=3, precision="bf16")
    assert_plain(run, begun)
    assert set(run.terms) == {name for name, t in run.techniques.items() if type(t).loss is not Technique.loss}


def test_terms_of_the_objective_add(student: Any, teacher: Any, tmp_path: Path) -> None:
    """Two techniques give the gradient that is the sum of their own."""

    def gradient(*names: str) -> torch.Tensor:
        torch.manual_seed(0)
        run = Run(student.eval(), techniques(tuple(CHOICES[n] for n in names)), steps=1, teacher=teacher)
        for technique in run.techniques.values():
            technique.prepare(run)
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0)
        data = examples()
        run.batches, run.rows = data.update(0), 8
        run.backward()
        return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])

    both = gradient("supervised", "distil/logits")
    assert torch.allclose(both, gradient("supervised") + gradient("distil/logits"), atol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3, 8, 11])
def test_micro_batches_give_the_gradient_of_the_whole_update(accumulate: int, student: Any, teacher: Any) -> None:
    """A mean over examples, however unevenly the update is cut (8 examples in 3 parts)."""

    def gradient(parts: int) -> torch.Tensor:
        run = Run(student.eval(), techniques((CHOICES["distil/logits"],)), steps=1, teacher=teacher)
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0)
        data = examples(accumulate=parts)
        run.batches, run.rows = data.update(0), len(data.rows(0))
        run.backward()
        return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])

    assert torch.allclose(gradient(accumulate), gradient(1), atol=1e-6)


def test_cached_logits_give_the_same_loss_as_the_live_teacher(student: Any, teacher: Any, tmp_path: Path) -> None:
    data = examples()
    logits = torch.from_numpy(evaluate.logits(teacher, data))
    weights = []
    for cached in (None, lambda: logits):
        torch.manual_seed(0)
        run = Run(copy.deepcopy(student), techniques((CHOICES["distil/logits"],)), steps=6, teacher=teacher)
        folder = tmp_path / str(bool(cached))
        train(run, data, TrainRecipe(lr=1e-3), folder=folder, evaluate=lambda _: 0.0, title="", teacher_logits=cached)
        assert (run.teacher_logits is not None) == bool(cached)
        weights.append(flat(run.model))
    # Adam turns a rounding of a gradient that is 0 but for that, such as a key's bias, into a tenth of a step of 1e-3.
    assert torch.allclose(*weights, atol=5e-4)


@pytest.mark.parametrize(("keep", "kept"), [("best", 3), ("last", 12)])
def test_best_weights_are_kept_or_the_last_ones(keep: str, kept: int, student: Any, tmp_path: Path) -> None:
    """Scores fall after the first evaluation, so `best` is the model of update 3 and `last` that of update 12."""
    scores, seen = iter((0.9, 0.5, 0.4, 0.3)), []

    def falling(model: Any) -> float:
        seen.append(flat(model))
        return next(scores)

    run = Run(student, techniques((CHOICES["supervised"],)), steps=12)
    recipe = TrainRecipe(lr=1e-3, evaluations=4, keep=keep)
    history = train(run, examples(), recipe, folder=tmp_path, evaluate=falling, title="")
    steps = [row["step"] for row in history]
    assert steps == [3, 6, 9, 12]
    assert [step for step, weights in zip(steps, seen, strict=True) if torch.equal(flat(run.model), weights)] == [kept]


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_technique_that_needs_a_teacher_says_so(student: Any, tmp_path: Path) -> None:
    run = Run(student, techniques((CHOICES["distil/logits"],)), steps=1)
    with pytest.raises(ValueError, match="has none"):
        train(run, examples(), TrainRecipe(), folder=tmp_path, evaluate=lambda _: 0.0, title="")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(use="distil/logit"), "did you mean 'distil/logits'"),
        (Choice(use="distil/logits", temprature=2), "did you mean 'temperature'"),
        (Choice(use="distil/logits", temperature="hot"), "temperature"),
        (Choice(use="distil/tinybert", stage="middle"), "intermediate"),
    ],
)
def test_catalogue_refuses_what_it_does_not_know(choice: Choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        techniques((choice,))


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_a_clipped_step_is_that_of_torch(max_norm: float, student: Any) -> None:
    """Oracle: clip_grad_norm_ and then step, on a copy."""
    pairs = []
    for clipped in (True, False):
        weights = list(copy.deepcopy(student).parameters())
        optimizer = torch.optim.AdamW(weights, lr=1e-2, fused=True)
        for seed in range(3):
            torch.manual_seed(seed)
            for w in weights:
                w.grad = torch.randn_like(w)
            if clipped:
                clipped_step(optimizer, weights, max_norm)
            else:
                torch.nn.utils.clip_grad_norm_(weights, max_norm)
                optimizer.step()
        pairs.append(weights)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*pairs, strict=True))
