"""A model that is cut answers as the one that is masked, in torch, from disk and in onnxruntime."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from compress import models
from compress.anatomy import blocks, part
from compress.export import qdq
from compress.export.calibrate import ort_session
from compress.export.graph import products
from compress.export.onnx import to_onnx
from compress.weights import linears
from compress.widths import FIELD, Keep, full, gates, keep_blocks, rebuild, restore, shrink, structure, widths
from tests.compress.families import FAMILIES, texts, tiny

KEEPS = {
    "some": [Keep((0, 2), (0, 3, 4, 20)), Keep((1, 2, 3), (23,)), Keep((3,), tuple(range(24)))],
    "empty": [Keep((), (1, 5, 7)), Keep((1, 3), ()), Keep((), ())],
    "all": [Keep((0, 1, 2, 3), tuple(range(24)))] * 3,
}


def masks(keep: list[Keep]) -> tuple[torch.Tensor, torch.Tensor]:
    xi, nu = torch.zeros(3, 4), torch.zeros(3, 24)
    for row, kept in enumerate(keep):
        xi[row, list(kept.heads)] = 1
        nu[row, list(kept.neurons)] = 1
    return xi, nu


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(**texts()).logits


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cut_is_masked(family: str, keep: str) -> None:
    model = tiny(family)
    whole = logits(model)
    with gates(model, *masks(KEEPS[keep])):
        masked = logits(model)
    shrink(model, KEEPS[keep])
    assert (logits(model) - masked).abs().max() < 1e-5
    assert ((masked - whole).abs().max() > 1e-3) == (keep != "all")
    assert widths(model) == [(len(kept.heads), len(kept.neurons)) for kept in KEEPS[keep]]


@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_twice_counts_from_what_is_left(family: str) -> None:
    twice, once = tiny(family), tiny(family)
    shrink(twice, [Keep((0, 2, 3), tuple(range(0, 24, 2)))] * 3)
    shrink(twice, [Keep((1, 2), (0, 5)), Keep((), (11,)), Keep((0,), ())])
    shrink(once, [Keep((2, 3), (0, 10)), Keep((), (22,)), Keep((0,), ())])
    assert torch.equal(logits(twice), logits(once))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_files_answer_as_the_cut_model(family: str, keep: str, tmp_path: Path) -> None:
    model = tiny(family)
    shrink(model, KEEPS[keep])
    expected = logits(model).numpy()
    feed = {name: value.numpy() for name, value in texts().items()}
    file = to_onnx(model, tmp_path / "model.onnx", inputs=tuple(feed))
    graph = onnx.load(file).graph
    assert all(np.prod(tensor.dims) > 0 for tensor in graph.initializer)
    assert np.allclose(ort_session(file).run(["logits"], feed)[0], expected, atol=1e-4)
    found = products(graph)
    assert sum(".layer." in name_of(product) for product in found) == len(list(linears(model)))
    int8 = tmp_path / "int8.onnx"
    qdq.write(file, int8, {product.activation: qdq.Grid(0.05, 128) for product in found})
    answer = ort_session(int8).run(["logits"], feed)[0]
    assert answer.shape == expected.shape and np.isfinite(answer).all()


def name_of(product: Any) -> str:
    return str(product.node.name).replace("/", ".")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_comes_back_from_disk(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    shrink(model, KEEPS["empty"])
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", lambda *_, **__: Fast())
    loaded, _ = models.load(str(tmp_path), ("a", "b"), 16)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)
    assert widths(loaded) == widths(model) and type(loaded).__name__ == type(model).__name__
    loaded, _ = models.load(str(tmp_path), ("a", "b", "c"), 16)  # a fresh head on the same encoder
    mine, theirs = loaded.base_model.state_dict(), model.base_model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


class Fast:
    is_fast = True


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_random_weights_in_a_block_are_an_error(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert")
    shrink(model, KEEPS["some"])
    if damage == "missing":
        blocks(model)[1].intermediate.dense = nn.Identity()
    else:
        setattr(model.config, FIELD, [[2, 4], [3, 2], [1, 24]])
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", lambda *_, **__: Fast())
    with pytest.raises(ValueError, match="layer.1.intermediate.dense.bias and .* more are missing or of another shape"):
        models.load(str(tmp_path), ("a", "b"), 16)


def test_what_a_head_and_a_neuron_hold_is_what_the_card_counts() -> None:
    """4 D d + 3 d for a head, 2 D + 1 for a neuron: 49,248 and 769 at D = 384, d = 32."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=1536, vocab_size=64
    )
    model = BertForSequenceClassification(config)
    count = sum(p.numel() for p in model.parameters())
    (everything,) = full(model)
    shrink(model, [Keep(everything.heads[1:], everything.neurons)])
    assert count - (count := sum(p.numel() for p in model.parameters())) == 49_248
    (everything,) = full(model)
    shrink(model, [Keep(everything.heads, everything.neurons[:-1])])
    assert count - sum(p.numel() for p in model.parameters()) == 769
    assert (model.config.num_attention_heads, model.config.intermediate_size) == (12, 1536)


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_multiply_heads_and_neurons(family: str) -> None:
    """Oracle: the columns of the output projections scaled by hand."""
    model, by_hand = tiny(family), tiny(family)
    xi, nu = torch.rand(3, 4), torch.rand(3, 24)
    with torch.no_grad():
        for row in range(3):
            by_hand.get_submodule(part(by_hand, row, "attention_out")).weight.mul_(xi[row].repeat_interleave(4))
            by_hand.get_submodule(part(by_hand, row, "ffn_out")).weight.mul_(nu[row])
    with gates(model, xi, nu):
        assert torch.allclose(logits(model), logits(by_hand), atol=1e-5)
    assert torch.equal(logits(model), logits(tiny(family)))


def test_each_example_may_have_gates_of_its_own() -> None:
    model, inputs = tiny("bert"), texts()
    xi, nu = torch.rand(3, 4, 4), torch.rand(3, 4, 24)
    with torch.no_grad(), gates(model, xi, nu):
        together = model(**inputs).logits
    for row in range(4):
        with torch.no_grad(), gates(model, xi[:, row], nu[:, row]):
            alone = model(**{name: value[row : row + 1] for name, value in inputs.items()}).logits[0]
        assert torch.allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_structure_makes_room_for_the_weights(family: str) -> None:
    """As a finished stage is read again: fewer blocks than the model began with, and narrower ones."""
    model, again = tiny(family), tiny(family, seed=1)
    shrink(model, KEEPS["some"])
    keep_blocks(model, (0, 2))
    shrink(model, [Keep((1,), (2, 3)), Keep((), (0, 5))])
    rebuild(again, structure(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again), logits(model))
    assert structure(again) == structure(model) and again.config.to_dict() == model.config.to_dict()


def test_rebuilding_a_whole_model_leaves_it_as_it_is() -> None:
    model = tiny("bert")
    rebuild(model, structure(model))
    assert not hasattr(model.config, FIELD)
    restore(model)
    assert torch.equal(logits(model), logits(tiny("bert")))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([Keep((0,), (1,))] * 2, "each of the 3 blocks, got 2"),
        ([Keep((0, 4), (1,))] * 3, r"block 0: heads must be ascending and below 4, got \[0, 4\]"),
        ([Keep((1, 0), (1,))] * 3, "heads must be ascending"),
        ([Keep((0,), (1, 1))] * 3, "neurons must be ascending and below 24"),
    ],
)
def test_units_that_are_not_there_are_refused(keep: Any, message: str) -> None:
    model = tiny("bert")
    with pytest.raises(ValueError, match=message):
        shrink(model, keep)
    assert torch.equal(logits(model), logits(tiny("bert")))


def test_a_cut_copy_leaves_its_origin_alone() -> None:
    model = tiny("mpnet")
    before = logits(model)
    shrink(copy.deepcopy(model), KEEPS["empty"])
    assert torch.equal(logits(model), before) and not hasattr(model.config, FIELD)


def test_cut_models_train_with_dropout() -> None:
    model = tiny("bert")
    shrink(model, KEEPS["empty"])
    model.train()
    model(**texts(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert all(p.grad is not None for p in blocks(model).parameters())
