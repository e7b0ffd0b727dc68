"""Importance of heads and neurons against planted units, symmetry and plain autograd."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.anatomy import blocks, part
from compress.prune.importance import importance, normalised
from compress.technique import NOT_INPUTS
from compress.widths import Keep, shrink
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs = {k: v for k, v in batch.items() if k not in NOT_INPUTS}
    return F.cross_entropy(model(**inputs).logits, batch["labels"])


def batches() -> list[dict[str, torch.Tensor]]:
    return [texts() | {"labels": torch.tensor([0, 1, 1, 0])}]


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_dead_units_score_zero(family: str, per_example: bool) -> None:
    """Head 2 of block 1 and neuron 5 of block 0 reach nothing."""
    model = tiny(family)
    with torch.no_grad():
        model.get_submodule(part(model, 1, "attention_out")).weight[:, 8:12] = 0
        model.get_submodule(part(model, 0, "ffn_out")).weight[:, 5] = 0
    heads, neurons = importance(model, batches(), loss, per_example=per_example)
    assert heads.shape == (3, 4) and neurons.shape == (3, 24)
    assert heads[1, 2] == 0 and neurons[0, 5] == 0
    assert (heads == 0).sum() == 1 and (neurons == 0).sum() == 1
    assert torch.allclose(heads.norm(dim=1), torch.ones(3)) and torch.allclose(neurons.norm(dim=1), torch.ones(3))


def test_exchanging_two_heads_permutes_the_scores() -> None:
    model, swapped = tiny("bert"), tiny("bert")
    order = torch.tensor([0, 3, 2, 1])
    rows = (order[:, None] * 4 + torch.arange(4)).flatten()
    attention = blocks(swapped)[1].attention
    with torch.no_grad():
        for layer in (attention.self.query, attention.self.key, attention.self.value):
            layer.weight.copy_(layer.weight[rows])
            layer.bias.copy_(layer.bias[rows])
        attention.output.dense.weight.copy_(attention.output.dense.weight[:, rows])
    mine, theirs = (importance(m, batches(), loss, per_example=True)[0] for m in (model, swapped))
    assert loss(swapped, batches()[0]).item() == pytest.approx(loss(model, batches()[0]).item(), abs=1e-6)
    assert torch.allclose(theirs[1], mine[1][order], atol=1e-5) and torch.allclose(theirs[0], mine[0], atol=1e-5)


def test_scores_are_the_loss_change_that_a_small_step_of_the_gate_makes() -> None:
    """Oracle: finite differences, in float64, of the columns that a gate scales; one text at a time or all at once."""
    model, (batch,) = tiny("bert").double(), batches()
    _, neurons = importance(model.float(), [batch], loss, per_example=False, normalise=False)
    _, each = importance(model, [batch], loss, per_example=True, normalise=False)
    model.double()

    def change(neuron: int, rows: Any) -> float:
        values, some = [], {name: value[rows] for name, value in batch.items()}
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                blocks(moved)[0].output.dense.weight[:, neuron] *= 1 + step
            values.append(loss(moved, some).item())
        return abs(values[0] - values[1]) / 2e-5

    for neuron in (0, 7, 23):
        assert neurons[0, neuron].item() == pytest.approx(change(neuron, slice(None)), rel=1e-3, abs=1e-7)
        singly = sum(change(neuron, [row]) for row in range(4))
        assert each[0, neuron].item() == pytest.approx(singly, rel=1e-3, abs=1e-7)


def test_batches_of_one_give_the_scores_of_single_examples() -> None:
    model, data = tiny("bert"), examples(12)
    together = importance(model, data.sorted(5), loss, per_example=True)
    singly = importance(model, data.sorted(1), loss, per_example=False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(together, singly, strict=True))


def test_a_cut_model_scores_what_is_left() -> None:
    model = tiny("bert")
    shrink(model, [Keep((1, 2), (0, 4, 7)), Keep((), (3,)), Keep((0, 1, 3), ())])
    heads, neurons = importance(model, batches(), loss, per_example=True)
    assert heads.shape == (3, 3) and neurons.shape == (3, 3)
    assert (heads > 0).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert (neurons > 0).tolist() == [[True] * 3, [True, False, False], [False] * 3]


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("bert").train()
    importance(model, batches(), loss, per_example=True)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not [hook for m in model.modules() for hook in m._forward_pre_hooks]
    with pytest.raises(ValueError, match="at least one batch"):
        importance(model, [], loss, per_example=True)


def test_a_row_of_zeros_stays_zero() -> None:
    assert normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
