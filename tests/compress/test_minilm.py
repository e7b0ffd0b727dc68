"""MiniLMv2: relations by hand, what leaves them alone, and which weights they teach."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

from compress.anatomy import blocks, part
from compress.catalogue import techniques
from compress.distil.minilm import MiniLM, log_relations, relation_loss
from compress.recipe import Choice, TrainRecipe
from compress.students.truncated import Truncated, spread
from compress.technique import Run, Step
from compress.train import train
from compress.widths import Keep, shrink
from tests.compress.conftest import tiny_bert
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def drawn(width: int, seed: int, tokens: int = 5) -> Tensor:
    return torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(seed))


def loss_of(student: Any, teacher: Any, batch: dict[str, Tensor], **fields: Any) -> Tensor:
    """The term on one batch, dropout off."""
    technique = MiniLM(**{"relation_heads": 4} | fields)
    run = Run(student.eval(), {"it": technique}, steps=1, teacher=teacher.eval())
    run.prepare()
    return technique.loss(Step(run, batch))


def test_two_tokens_by_hand() -> None:
    """Teacher (1, 0): rows (e, 1) / (e + 1) and (1/2, 1/2); a student of zeros has (1/2, 1/2) twice."""
    teacher, student = torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1)
    loss = relation_loss(student, teacher, torch.ones(1, 2), 1)
    assert loss.item() == pytest.approx(0.055472, abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_a_student_like_its_teacher_loses_nothing(heads: int) -> None:
    x = drawn(8, 0)
    assert relation_loss(x, x, MASK, heads).item() == pytest.approx(0, abs=1e-7)


def test_a_student_of_zeros_lacks_the_teachers_entropy() -> None:
    teacher, expected = drawn(8, 1), []
    for row, real in zip(teacher, (5, 3), strict=True):
        entropies = []
        for head in row[:real].unflatten(-1, (2, 4)).transpose(0, 1):
            p = (head @ head.T / 2).softmax(-1)
            entropies.append(-(p * p.log()).sum(-1))
        expected.append(math.log(real) - torch.stack(entropies).mean().item())
    loss = relation_loss(torch.zeros(2, 5, 16), teacher, MASK, 2)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_heads_may_turn_and_signs_may_change() -> None:
    """Relations see angles and lengths: any rotation of a head's slice, the same for all tokens, is free."""
    student, teacher = drawn(12, 2), drawn(8, 3)
    turns = torch.linalg.qr(torch.randn(4, 3, 3))[0]
    turned = torch.einsum("blhd,hde->blhe", student.unflatten(-1, (4, 3)), turns).flatten(2)
    expected = relation_loss(student, teacher, MASK, 4).item()
    assert relation_loss(turned, teacher, MASK, 4).item() == pytest.approx(expected, rel=1e-5)
    assert relation_loss(-student, teacher, MASK, 4).item() == pytest.approx(expected, rel=1e-6)
    across = student.roll(1, -1)  # of one head into the next
    assert abs(relation_loss(across, teacher, MASK, 4).item() - expected) > 1e-3


def test_each_network_is_scaled_by_its_own_relation_head() -> None:
    x = drawn(8, 4)
    wide = x.unflatten(-1, (2, 4)).repeat(1, 1, 1, 2).flatten(2) / 2**0.25  # twice the products, over sqrt(2)
    assert torch.allclose(log_relations(wide, 2, MASK), log_relations(x, 2, MASK), atol=1e-5)


def test_padding_is_not_seen() -> None:
    student, teacher = drawn(8, 5), drawn(16, 6)
    expected = relation_loss(student, teacher, MASK, 4).item()
    longer = [F.pad(x, (0, 0, 0, 4), value=7.0) for x in (student, teacher)]
    assert relation_loss(*longer, F.pad(MASK, (0, 4)), 4).item() == pytest.approx(expected, abs=1e-6)
    one_by_one = [relation_loss(student[i : i + 1], teacher[i : i + 1], MASK[i : i + 1], 4).item() for i in (0, 1)]
    assert expected == pytest.approx(sum(one_by_one) / 2, rel=1e-5)


def test_padding_has_no_gradient_and_no_nan() -> None:
    student = drawn(8, 5).requires_grad_()
    relation_loss(student, drawn(8, 6), MASK, 4).backward()
    assert torch.isfinite(student.grad).all() and (student.grad[1, 3:] == 0).all() and student.grad[1, :3].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_and_values_of_the_named_layers_are_compared(family: str) -> None:
    """Oracle: the three maps applied again to the states that go into each layer; these families normalise last."""
    student, teacher, batch = tiny(family, seed=1), tiny(family, seed=2), texts()
    mask, expected = batch["attention_mask"], 0.0
    for name, alpha in zip(("query", "key", "value"), (0.5, 0.2, 0.3), strict=True):
        found = []
        for model, layer in ((student, 2), (teacher, 1)):
            state = model(**batch, output_hidden_states=True).hidden_states[layer]
            found.append(model.get_submodule(part(model, layer, name))(state))
        expected += alpha * relation_loss(*found, mask, 2).item()
    loss = loss_of(student, teacher, batch, relation_heads=2, layer=2, alphas=(0.5, 0.2, 0.3))
    assert loss.item() == pytest.approx(expected, rel=1e-4) and expected > 1e-3


def test_the_rest_of_the_last_layer_is_not_taught(student: Any, teacher: Any, batch: Any) -> None:
    loss_of(student, teacher, batch).backward()
    taught = {name for name, weight in student.named_parameters() if weight.grad is not None and weight.grad.any()}
    last = "bert.encoder.layer.1"
    untaught = {n for n, _ in student.named_parameters() if n.startswith((last, "bert.pooler", "classifier"))}
    untaught -= {f"{last}.attention.self.{name}.{w}" for name in ("query", "key", "value") for w in ("weight", "bias")}
    assert len(untaught) == 14 and not taught & untaught
    assert {f"{last}.attention.self.value.weight", "bert.encoder.layer.0.output.dense.weight"} <= taught


def test_a_narrow_student_needs_no_more_parameters(teacher: Any, tmp_path: Path) -> None:
    """Half as wide, one layer, other heads; and what it learns is to relate tokens as the teacher does."""
    student = tiny_bert(layers=1, width=8, seed=5)
    count = sum(p.numel() for p in student.parameters())
    data, technique = examples(), MiniLM(relation_heads=4)
    before = loss_of(copy.deepcopy(student), teacher, data.update(0)[0]).item()
    run = Run(student, {"it": technique}, steps=120, teacher=teacher.requires_grad_(False))
    options = TrainRecipe(lr=1e-2, evaluations=1, keep="last", precision="fp32")
    train(run, data, options, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    assert not list(run.owned.parameters()) and sum(p.numel() for p in run.model.parameters()) == count
    assert loss_of(run.model, teacher, data.update(0)[0]).item() < 0.7 * before


def test_widths_of_the_paper_share_48_relation_heads() -> None:
    student, teacher = torch.randn(1, 4, 192), torch.randn(1, 4, 384)
    assert relation_loss(student, teacher, torch.ones(1, 4), 48) > 0


@pytest.mark.parametrize(("layers", "count"), [(6, 22_713_216), (12, 33_360_000)])
def test_students_have_the_size_of_the_paper(layers: int, count: int) -> None:
    sizes = {"hidden_size": 384, "num_hidden_layers": layers, "intermediate_size": 1536}
    with torch.device("meta"):
        model = BertModel(BertConfig(num_attention_heads=12, **sizes))
    assert sum(p.numel() for p in model.parameters()) == count


def test_three_of_twelve_layers_learn_from_the_twelfth(tmp_path: Path) -> None:
    teacher = tiny_bert(layers=12, width=16, seed=0)
    student = Truncated(layers=3).build(teacher)
    assert spread(3, 12) == (0, 6, 11) and len(blocks(student)) == 3
    technique = MiniLM(relation_heads=4)
    Run(student, {"it": technique}, steps=1, teacher=teacher).prepare()
    assert technique.names[0] == (
        "bert.encoder.layer.2.attention.self.query",
        "bert.encoder.layer.11.attention.self.query",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the student has 16, got 48"),
        ({"relation_heads": 0}, "got 0"),
        ({"relation_heads": 4, "layer": 5}, "the teacher's 1-4, got 5"),
        ({"relation_heads": 4, "layer": 0}, "the teacher's 1-4, got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict[str, Any], message: str, student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match=message):
        Run(student, techniques((Choice(use="distil/minilm-v2", **fields),)), steps=1, teacher=teacher).prepare()


def test_a_last_layer_without_heads_is_refused(student: Any, teacher: Any) -> None:
    shrink(student, [Keep((0, 1), (0,)), Keep((), (0,))])
    with pytest.raises(ValueError, match="layer 2 of the student has no heads left"):
        Run(student, {"it": MiniLM(relation_heads=4)}, steps=1, teacher=teacher).prepare()
