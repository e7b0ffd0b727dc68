"""Each method against something outside its code: closed forms, special cases, counts from papers."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from compress.anatomy import blocks
from compress.distil.distilbert import DistilBERT, cosine_loss
from compress.distil.logits import LogitDistillation, distance, soft_loss, standardised_loss
from compress.distil.tinybert import (
    TinyBERT,
    attention_loss,
    attention_scores,
    hidden_loss,
    prediction_loss,
    uniform_map,
)
from compress.students.truncated import Truncated, spread
from compress.supervised import Supervised, task_loss
from compress.technique import Run, Step, Technique
from compress.widths import Keep, shrink
from tests.compress.conftest import tiny_bert


def value_of(technique: Technique, student: nn.Module, teacher: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The technique's term on one batch, dropout off."""
    run = Run(student.eval(), {"it": technique}, steps=10, teacher=teacher.eval(), rows=len(batch["rows"]))
    technique.prepare(run)
    return technique.loss(Step(run, batch))


# Hinton et al. 2015: closed forms worked out by hand


@pytest.mark.parametrize(("temperature", "expected"), [(2, 0.443776), (1, 0.327813)])
def test_soft_loss_of_two_classes(temperature: float, expected: float) -> None:
    loss = soft_loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_soft_loss_gradient_is_the_difference_of_softened_distributions() -> None:
    student = torch.zeros(1, 2, requires_grad=True)
    soft_loss(student, torch.tensor([[2.0, 0.0]]), 2).backward()
    assert student.grad[0].tolist() == pytest.approx([-0.462117, 0.462117], abs=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(1, 0.436814), (2, 0.682559), (4, 0.774545), (20, 0.786020)])
def test_soft_loss_of_three_classes(temperature: float, expected: float) -> None:
    loss = soft_loss(torch.tensor([[1.0, 1, 0]]), torch.tensor([[3.0, 1, -1]]), temperature)
    assert loss.item() == pytest.approx(expected, abs=5e-5)


def test_soft_loss_at_high_temperature_is_half_the_mean_squared_distance() -> None:
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    centred = (teacher - teacher.mean(-1, keepdim=True)) - (student - student.mean(-1, keepdim=True))
    assert soft_loss(student, teacher, 100).item() == pytest.approx(centred.pow(2).sum(-1).mean().item() / 6, rel=2e-2)


def test_soft_loss_ignores_a_constant_added_to_a_row() -> None:
    teacher = torch.randn(5, 3)
    student = (teacher + torch.randn(5, 1)).requires_grad_()
    loss = soft_loss(student, teacher, 2)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_soft_loss_of_a_one_hot_teacher_is_cross_entropy() -> None:
    student, teacher = torch.randn(8, 3), torch.randn(8, 3)
    expected = F.cross_entropy(student, teacher.argmax(-1))
    assert soft_loss(student, teacher * 1000, 1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_without_soft_weight_is_fine_tuning(student: Any, teacher: Any, batch: Any) -> None:
    distilled = value_of(LogitDistillation(soft_weight=0.0), student, teacher, batch)
    assert torch.equal(distilled, value_of(Supervised(), student, teacher, batch))


def test_hard_loss_of_unlabelled_examples_is_zero_and_not_nan() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    task_loss(logits, torch.full((3,), -100)).backward()
    assert logits.grad.abs().sum() == 0


def test_regression_compares_values() -> None:
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert soft_loss(student, teacher, 7).item() == pytest.approx((1 + 4) / 2)
    assert task_loss(student, torch.tensor([1.0, 1.0])).item() == pytest.approx((0 + 4) / 2)


def targets(name: str) -> Any:
    return LogitDistillation(targets=name, soft_weight=1.0)


def test_hard_targets_are_the_teachers_classes_whatever_its_confidence(student: Any, teacher: Any, batch: Any) -> None:
    """Oracle: gold labels replaced by what the teacher predicts."""
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    labels = teacher(**inputs).logits.argmax(-1)
    hard = value_of(targets("hard"), student, teacher, batch)
    assert torch.equal(hard, value_of(Supervised(), student, teacher, batch | {"labels": labels}))
    with torch.no_grad():
        for weight in (teacher.classifier.weight, teacher.classifier.bias):
            weight.mul_(0.1)
    assert torch.equal(hard, value_of(targets("hard"), student, teacher, batch))


def test_distance_of_logits_sums_over_classes() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, -1.0], [0.0, 2.0]])
    assert distance(student, teacher, 7).item() == pytest.approx((5 + 4) / 2)


def test_standardised_logits_forget_size_and_shift() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    expected = standardised_loss(student, teacher, 2).item()
    moved = 50 * teacher + torch.randn(6, 1)
    assert standardised_loss(student * 7 + 3, moved, 2).item() == pytest.approx(expected, rel=1e-3)
    assert standardised_loss(5 * teacher, teacher, 2).item() == pytest.approx(0, abs=1e-6)
    by_hand = torch.tensor([[-(1.5**0.5), 0.0, 1.5**0.5]])  # (1, 2, 3) has mean 2 and deviation sqrt(2 / 3)
    found = standardised_loss(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]), 1)
    assert found.item() == pytest.approx(soft_loss(torch.zeros(1, 3), by_hand, 1).item(), abs=1e-4)


def test_standardised_logits_that_are_all_equal_have_a_gradient() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    standardised_loss(student, torch.randn(2, 3), 1).backward()
    assert torch.isfinite(student.grad).all()


def test_two_classes_are_not_standardised(student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match=r"two classes are always \+1 and -1"):
        targets("standardised").prepare(Run(student, {}, steps=1, teacher=teacher))
    targets("standardised").prepare(Run(tiny_bert(layers=1, width=16, seed=0, labels=3), {}, steps=1, teacher=teacher))


@pytest.mark.parametrize("name", ["hard", "standardised"])
def test_scores_have_no_most_likely_class(name: str, student: Any, teacher: Any) -> None:
    run = Run(student, {"distil/logits": targets(name)}, steps=1, kind="regression", teacher=teacher)
    with pytest.raises(ValueError, match="distil/logits is for classification, and this task is regression"):
        run.prepare()


# Jiao et al. 2020


def test_tinybert_of_a_student_that_is_its_teacher_is_zero(teacher: Any, batch: Any) -> None:
    assert value_of(TinyBERT(), copy.deepcopy(teacher), teacher, batch).item() == 0


def test_tinybert_prediction_of_flat_logits_is_log_two() -> None:
    assert prediction_loss(torch.zeros(4, 2), torch.zeros(4, 2), 1).item() == pytest.approx(math.log(2))


def test_tinybert_compares_scores_before_the_softmax() -> None:
    teacher_BHLL = torch.randn(2, 3, 5, 5)
    student_BHLL = teacher_BHLL.clone()
    student_BHLL[1, 2, 4] += 0.5  # one query row: the softmax does not change
    loss = attention_loss(student_BHLL, teacher_BHLL, torch.ones(2, 5))
    assert loss.item() == pytest.approx(0.5**2 / (2 * 3 * 5))


def test_tinybert_scores_give_the_attention_that_the_model_computes(teacher: Any, batch: Any) -> None:
    reference = copy.deepcopy(teacher)
    reference.set_attn_implementation("eager")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}
    output = reference(**inputs, output_attentions=True, output_hidden_states=True)
    attention = blocks(reference)[2].attention.self
    state = output.hidden_states[2]
    scores = attention_scores(attention.query(state), attention.key(state), heads=2)
    assert torch.allclose(scores.softmax(-1), output.attentions[2], atol=1e-6)


def test_tinybert_does_not_see_padding(student: Any, teacher: Any, batch: Any) -> None:
    padded = {name: F.pad(value, (0, 4)) if value.ndim == 2 else value for name, value in batch.items()}
    for technique in (TinyBERT, DistilBERT):
        torch.manual_seed(0)
        short = value_of(technique(), student, teacher, batch)
        torch.manual_seed(0)
        assert value_of(technique(), student, teacher, padded).item() == pytest.approx(short.item(), rel=1e-5)


def test_tinybert_is_the_sum_of_its_parts(student: Any, teacher: Any, batch: Any) -> None:
    """Eq. 7-9 written again from the outputs of eager attention, with a projection that is the identity."""
    technique = TinyBERT(layers=((1, 2), (2, 4)))
    loss = value_of(technique, student, teacher, batch)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    s, t = (model(**inputs, output_hidden_states=True).hidden_states for model in (student, teacher))
    expected = 0.0
    for m, n in ((0, 0), (1, 2), (2, 4)):
        real = batch["attention_mask"].bool()
        expected += ((s[m] - t[n])[real] ** 2).mean()
    for m, n in ((1, 2), (2, 4)):
        errors = []
        for row, length in enumerate(batch["attention_mask"].sum(1)):
            mine, theirs = (
                (
                    a.query(h)[:length].view(length, 2, 8).transpose(0, 1)
                    @ a.key(h)[:length].view(length, 2, 8).permute(1, 2, 0)
                )
                / 8**0.5
                for a, h in (
                    (blocks(student)[m - 1].attention.self, s[m - 1][row]),
                    (blocks(teacher)[n - 1].attention.self, t[n - 1][row]),
                )
            )
            errors.append(((mine - theirs) ** 2).mean(0).flatten())
        expected += torch.cat(errors).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_tinybert_maps_layers_uniformly() -> None:
    assert uniform_map(4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert uniform_map(3, 12) == [(1, 4), (2, 8), (3, 12)]


def test_tinybert_refuses_layers_that_are_not_there(student: Any, teacher: Any, batch: Any) -> None:
    with pytest.raises(ValueError, match=r"maps layers 1-2 to 1-4, got \(3, 4\)"):
        value_of(TinyBERT(layers=((3, 4),)), student, teacher, batch)


def test_tinybert_refuses_other_numbers_of_heads(student: Any, teacher: Any, batch: Any) -> None:
    student.config.num_attention_heads = 4
    with pytest.raises(ValueError, match="4 heads, the teacher 2"):
        value_of(TinyBERT(), student, teacher, batch)


def test_tinybert_without_attention_takes_a_student_with_heads_of_its_own(teacher: Any, batch: Any) -> None:
    """Oracle: what cuts only heads and neurons that reach nothing leaves every hidden state, so the loss is zero."""
    keep = [Keep((1,), (0, 1, 2)), Keep((), ())] + [Keep((0, 1), tuple(range(32)))] * 2
    with torch.no_grad():
        for block, kept in zip(blocks(teacher), keep, strict=True):
            block.attention.output.dense.weight[:, [8 * h + i for h in {0, 1} - {*kept.heads} for i in range(8)]] = 0
            block.output.dense.weight[:, [n for n in range(32) if n not in kept.neurons]] = 0
    student = copy.deepcopy(teacher)
    shrink(student, keep)
    assert value_of(TinyBERT(attention=False), student, teacher, batch).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="0 or 1 or 2 heads, the teacher 2: set attention to false"):
        value_of(TinyBERT(), student, teacher, batch)


def test_hidden_loss_is_a_mean_over_real_tokens_and_width() -> None:
    student, mask = torch.zeros(1, 3, 4), torch.tensor([[1.0, 1.0, 0.0]])
    teacher = torch.tensor([1.0, 2.0, 100.0])[None, :, None].expand(1, 3, 4)
    assert hidden_loss(student, teacher, mask).item() == pytest.approx((1 + 4) / 2)


# Sanh et al. 2019


def test_cosine_loss_sees_direction_only() -> None:
    state, mask = torch.randn(2, 3, 8), torch.ones(2, 3)
    assert cosine_loss(3 * state, state, mask).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(-state, state, mask).item() == pytest.approx(2, abs=1e-6)


def test_distilbert_of_a_student_that_is_its_teacher_leaves_the_hard_loss(teacher: Any, batch: Any) -> None:
    twin = copy.deepcopy(teacher)
    loss = value_of(DistilBERT(), twin, teacher, batch)
    assert loss.item() == pytest.approx(2 * value_of(Supervised(), twin, teacher, batch).item(), abs=1e-5)


def test_distilbert_refuses_other_widths(teacher: Any, batch: Any) -> None:
    narrow = SimpleNamespace(config=SimpleNamespace(hidden_size=8))
    with pytest.raises(ValueError, match="set a_cos to 0"):
        DistilBERT().prepare(Run(narrow, {}, steps=1, teacher=teacher))


def test_half_the_layers_of_bert_base_have_the_size_of_the_paper() -> None:
    config = BertConfig()
    with torch.device("meta"):
        full = BertForSequenceClassification(config)
    half = Truncated(layers=6).build(full)
    encoder = sum(p.numel() for p in full.bert.parameters())
    assert encoder == 109_482_240
    assert encoder - sum(p.numel() for p in half.bert.parameters()) == 6 * 7_087_872
    assert half.config.num_hidden_layers == 6 and full.config.num_hidden_layers == 12


def test_student_with_all_layers_answers_as_the_teacher(teacher: Any, batch: Any) -> None:
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    twin = Truncated(layers=(0, 1, 2, 3)).build(teacher).eval()
    assert torch.equal(twin(**inputs).logits, teacher(**inputs).logits)


def test_student_keeps_the_layers_that_the_recipe_names(teacher: Any) -> None:
    kept = blocks(Truncated(layers=(1, 3)).build(teacher))
    for mine, theirs in zip(kept, (blocks(teacher)[1], blocks(teacher)[3]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert spread(6, 12) == (0, 2, 4, 7, 9, 11)
    assert spread(3, 12) == (0, 6, 11)


@pytest.mark.parametrize("layers", [0, 5, (0, 4), (-1,), ()])
def test_student_refuses_layers_that_the_teacher_has_not(teacher: Any, layers: Any) -> None:
    with pytest.raises(ValueError, match="layers"):
        Truncated(layers=layers).build(teacher)
