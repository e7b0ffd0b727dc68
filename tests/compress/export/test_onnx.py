from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from compress.export.onnx import to_onnx

from .conftest import BERT_INPUTS, WORDS, bert, distilbert, roberta

ARCHITECTURES = {
    "bert": (bert, BERT_INPUTS),
    "bert without types": (bert, BERT_INPUTS[:2]),
    "roberta": (roberta, BERT_INPUTS[:2]),
    "distilbert": (distilbert, BERT_INPUTS[:2]),
}
SHAPES = [(1, 1), (1, 2), (1, 32), (2, 9), (7, 3), (3, 32)]  # 32 is the last position


def feeds_of(shape: tuple[int, int], pad: int) -> dict[str, np.ndarray]:
    """Each row shorter than the one before."""
    random = np.random.default_rng(sum(shape))
    ids, mask = random.integers(4, WORDS, shape), np.ones(shape, np.int64)
    for row in range(shape[0]):
        mask[row, max(1, shape[1] - 2 * row) :] = 0
    ids[mask == 0] = pad
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}


def answer(model: nn.Module, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in feeds.items()}).logits.numpy()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_export_equals_torch_at_every_batch_and_length(name: str, tmp_path: Path) -> None:
    build, inputs = ARCHITECTURES[name]
    model = build()
    session = ort.InferenceSession(to_onnx(model, tmp_path / "onnx" / "model.onnx", inputs=inputs))
    assert tuple(value.name for value in session.get_inputs()) == inputs
    assert [value.name for value in session.get_outputs()] == ["logits"]
    for shape in SHAPES:
        feeds = {key: values for key, values in feeds_of(shape, model.config.pad_token_id).items() if key in inputs}
        got = session.run(None, feeds)[0]
        np.testing.assert_allclose(got, answer(model, feeds), atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_does_not_change_answers(name: str, tmp_path: Path) -> None:
    build, inputs = ARCHITECTURES[name]
    model = build()
    session = ort.InferenceSession(to_onnx(model, tmp_path / "model.onnx", inputs=inputs))
    feeds = {key: values for key, values in feeds_of((1, 6), 0).items() if key in inputs}
    padding = {"input_ids": model.config.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    padded = {key: np.pad(values, ((0, 0), (0, 20)), constant_values=padding[key]) for key, values in feeds.items()}
    np.testing.assert_allclose(session.run(None, padded)[0], session.run(None, feeds)[0], atol=1e-5)


def test_inputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    inputs = ("attention_mask", "token_type_ids", "input_ids")
    graph = onnx.load(to_onnx(bert(), tmp_path / "model.onnx", inputs=inputs)).graph
    assert tuple(value.name for value in graph.input) == inputs


def test_export_leaves_the_model_and_the_random_state_alone(tmp_path: Path) -> None:
    model = bert().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    to_onnx(model, tmp_path / "model.onnx", inputs=BERT_INPUTS)
    assert model.training and model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_model_changed_by_hand_is_exported_as_it_is(tmp_path: Path) -> None:
    model = bert()
    model.classifier = nn.Sequential(nn.Linear(32, 5), nn.Tanh(), nn.Linear(5, 3))
    session = ort.InferenceSession(to_onnx(model, tmp_path / "model.onnx", inputs=BERT_INPUTS))
    feeds = feeds_of((2, 9), 0)
    np.testing.assert_allclose(session.run(None, feeds)[0], answer(model, feeds), atol=1e-4)


def test_an_input_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixel_values"):
        to_onnx(bert(), tmp_path / "model.onnx", inputs=("input_ids", "pixel_values"))


def test_inner_shapes_are_left_out(tmp_path: Path) -> None:

    assert not onnx.load(to_onnx(bert(), tmp_path / "model.onnx", inputs=BERT_INPUTS)).graph.value_info
