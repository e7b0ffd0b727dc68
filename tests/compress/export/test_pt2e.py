from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel

from compress.export import calibrate, pt2e
from compress.export.graph import products
from compress.export.int8 import Source, neural_compressor
from compress.export.kernels import count_kernels
from compress.export.onnx import quiet, to_onnx

from .conftest import BERT_INPUTS, bert, distilbert, roberta
from .test_onnx import feeds_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def needs_neural_compressor() -> None:
    for name in ("torchao", "cpuinfo", "prettytable"):
        pytest.importorskip(name)


@pytest.mark.parametrize(
    ("build", "inputs"), [(bert, BERT_INPUTS), (roberta, BERT_INPUTS[:2]), (distilbert, BERT_INPUTS[:2])]
)
def test_the_file_says_what_neural_compressor_s_own_graph_says(
    build: Callable[[], PreTrainedModel], inputs: tuple[str, ...], tmp_path: Path
) -> None:
    """Much closer to it than it is to fp32: the same scales, on other kernels and with INT8 embeddings."""
    model = build()
    fp32 = to_onnx(model, tmp_path / "fp32.onnx", inputs=inputs)
    feeds = [{name: feeds_of((1, 4 + at % 20), 0)[name] for name in inputs} for at in range(40)]
    neural_compressor(Source(model, fp32, feeds, "classification"), tmp_path / "int8.onnx")
    assert count_kernels(tmp_path / "int8.onnx") == (14, 0)
    with quiet(), torch.no_grad():
        captured = pt2e._quantise(model, feeds)
        theirs = [captured(*(torch.from_numpy(values) for values in feed.values())).numpy() for feed in feeds]
    ours, exact = (
        [session.run(None, feed)[0] for feed in feeds]
        for session in map(calibrate.ort_session, (tmp_path / "int8.onnx", fp32))
    )
    assert np.abs(np.subtract(ours, theirs)).mean() < 0.4 * np.abs(np.subtract(theirs, exact)).mean()


def test_weight_scales_are_those_of_the_right_layer(tmp_path: Path) -> None:
    """torch's symmetric int8 reaches from -128 to 127, so a channel's scale is its largest magnitude / 127.5."""
    model = bert()
    fp32 = to_onnx(model, tmp_path / "fp32.onnx", inputs=BERT_INPUTS)
    feeds = [feeds_of((1, 12), 0)]
    grids, scales, versions = pt2e.scales(model, fp32, feeds)
    found = products(onnx.load(fp32).graph)
    assert len(found) == len(scales) == 14 and versions["neural-compressor"]
    assert set(grids) == {product.activation for product in found}
    for product in found:
        largest = np.abs(product.weight).max(axis=1 - product.axis)
        np.testing.assert_allclose(scales[product.node.name], largest / 127.5, rtol=1e-4)


def test_the_caller_s_model_is_left_alone(tmp_path: Path) -> None:
    model = bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fp32 = to_onnx(model, tmp_path / "fp32.onnx", inputs=BERT_INPUTS)
    pt2e.scales(model, fp32, [feeds_of((1, 12), 0)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
