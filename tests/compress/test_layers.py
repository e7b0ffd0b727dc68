"""Dropped layers: the rules by hand, states that stay bit for bit, and what an identity layer must do."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from compress.anatomy import blocks
from compress.catalogue import techniques
from compress.prune.layers import contributions, dropped
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run
from compress.train import train
from compress.widths import Keep, shrink, widths
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples


@pytest.mark.parametrize(
    ("strategy", "depth", "count", "gone"),
    [
        ("top", 12, 4, {9, 10, 11, 12}),
        ("bottom", 12, 4, {1, 2, 3, 4}),
        ("alternate-odd", 12, 4, {11, 9, 7, 5}),
        ("alternate-even", 12, 4, {12, 10, 8, 6}),
        ("symmetric", 12, 4, {5, 6, 7, 8}),
        ("symmetric", 6, 3, {3, 4, 5}),  # bottom keeps 2, top 1
        ("symmetric", 12, 11, set(range(2, 13))),
        ("alternate-odd", 7, 3, {6, 4, 2}),
    ],
)
def test_rules_remove_what_the_paper_removes(strategy: Any, depth: int, count: int, gone: set[int]) -> None:
    assert dropped(strategy, depth, count) == gone


def prepared(model: Any, sample: Any = None, **fields: Any) -> Any:
    run = Run(model, techniques((Choice(use="prune/layers", **fields),)), steps=1)
    run.sample = sample or run.sample
    run.prepare()
    return run.model


@torch.no_grad()
def states(model: nn.Module) -> tuple[torch.Tensor, ...]:
    return model.eval()(**texts(), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("strategy", ["top", "bottom", "alternate-odd", "alternate-even", "symmetric", "contribution"])
def test_dropping_nothing_leaves_the_model_alone(strategy: str) -> None:
    model = prepared(tiny("bert"), sample=lambda _: iter([texts()]), strategy=strategy, drop=0)
    with torch.no_grad():
        assert torch.equal(model(**texts()).logits, tiny("bert")(**texts()).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_below_the_top_stay_bit_for_bit(family: str) -> None:
    model = prepared(tiny(family), drop=2)
    assert len(blocks(model)) == model.config.num_hidden_layers == 1
    assert all(torch.equal(a, b) for a, b in zip(states(model), states(tiny(family)), strict=False))
    assert len(states(model)) == 2


def test_a_third_goes_by_default() -> None:
    assert len(blocks(prepared(tiny("bert", num_hidden_layers=7)))) == 5


def test_a_layer_holds_what_the_card_counts() -> None:
    """12 D^2 + 13 D where F = 4 D: 1,774,464 at D = 384."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536, vocab_size=64
    )
    model = BertForSequenceClassification(config)
    count = sum(p.numel() for p in model.parameters())
    prepared(model, drop=2)
    assert count - sum(p.numel() for p in model.parameters()) == 2 * 1_774_464


def test_an_identity_layer_contributes_nothing_and_goes_first() -> None:
    model = tiny("bert", num_hidden_layers=4)
    model.base_model.encoder.layer[1].forward = lambda x, *_args, **_given: (x,)
    cosines = contributions(model, [texts()])
    assert cosines.shape == (4,) and cosines.argmax() == 1 and cosines[1].item() == pytest.approx(1, abs=1e-6)
    kept = [id(layer) for at, layer in enumerate(blocks(model)) if at != 1]
    prepared(model, sample=lambda _: iter([texts()]), strategy="contribution", drop=1)
    assert [id(layer) for layer in blocks(model)] == kept


def test_contributions_are_cosines_of_the_first_token() -> None:
    """Oracle: one text at a time, from the outputs of transformers."""
    model, inputs = tiny("bert"), texts()
    found = []
    for row in range(4):
        seen = model(**{k: v[row : row + 1] for k, v in inputs.items()}, output_hidden_states=True).hidden_states
        found.append([(a[0, 0] @ b[0, 0] / a[0, 0].norm() / b[0, 0].norm()).item() for a, b in pairwise(seen)])
    assert contributions(model, [inputs]).tolist() == pytest.approx(torch.tensor(found).mean(0).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drop": 3}, "top removes 0 to 2 of 3 layers, got drop 3"),
        ({"drop": -1}, "removes 0 to 2 of 3 layers"),
        ({"drop": 2, "strategy": "alternate-odd"}, "alternate-odd removes 0 to 1 of 3"),
    ],
)
def test_layers_that_are_not_there_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tiny("bert"), **fields)


def test_dropping_comes_before_everything_else(teacher: Any, tmp_path: Path) -> None:
    """Named last, and yet no optimiser, tap or range knows of a layer that is gone; the teacher keeps all."""
    student, full = copy.deepcopy(teacher), teacher.requires_grad_(False)
    names = ("supervised", "quantise/qat", "distil/tinybert", "prune/magnitude", "prune/layers")
    run = Run(student, techniques(tuple(Choice(use=name) for name in names)), steps=8, teacher=full)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    assert len(blocks(run.model)) == 3 and len(blocks(full)) == 4
    trained = sum(p.numel() for group in run.optimizer.param_groups for p in group["params"])
    assert trained == sum(p.numel() for m in (run.model, run.owned) for p in m.parameters())
    assert not any("layer.3" in name for name in run.facts["quantisation"])


def test_layers_of_a_cut_model_keep_their_own_widths() -> None:
    model = tiny("mpnet")
    shrink(model, [Keep((0, 2), (1, 2, 3)), Keep((1,), (4,)), Keep((1, 2, 3), (5, 6))])
    prepared(model, strategy="bottom", drop=1)
    assert widths(model) == [(1, 1), (3, 2)]
    assert model.config.bantam_widths == [[1, 1], [3, 2]] and model.config.bantam_heads == [[1], [1, 2, 3]]
