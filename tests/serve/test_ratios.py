"""Sizes of sparse weights against arithmetic done by hand, and blocks against the matrix that they came from."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serve.errors import ArtefactError
from serve.packing import ratios
from serve.packing.blocks import BLOCKS, Sparse, dense, smallest, sparse
from serve.packing.onnx_file import LARGE, constants
from serve.packing.ratios import entropy, ratio


@pytest.mark.parametrize(
    ("zeros", "nominal", "bit_mask", "quads", "positions"), [(0.9, 40, 17.8, 30.5, 13.3), (0.85, 26.7, 14.5, 22.1, 8.9)]
)
def test_ratios_are_those_of_the_arithmetic(
    zeros: float, nominal: float, bit_mask: float, quads: float, positions: float
) -> None:
    density = 1 - zeros
    assert ratio(density) == pytest.approx(nominal, abs=0.05)
    assert ratio(density, 1) == pytest.approx(bit_mask, abs=0.05)
    assert ratio(density, 1 / 4) == pytest.approx(quads, abs=0.05)
    assert ratio(density, 16 * density) == pytest.approx(positions, abs=0.05)


def test_other_known_values() -> None:
    assert ratio(1.0) == 4  # dense INT8
    assert entropy(0.1) == pytest.approx(0.469, abs=5e-4)
    assert ratio(0.1, entropy(0.1)) == pytest.approx(25.2, abs=0.05)
    assert entropy(0.5) == 1 and entropy(0.0) == entropy(1.0) == 0
    for density, expected in ((0.2, 13.3), (0.1, 26.7)):  # 4x1 blocks with a 16-bit column each
        assert ratio(density, 16 * density / 4) == pytest.approx(expected, abs=0.05)


def pruned(shape: tuple[int, int], block: tuple[int, int], zeros: float, seed: int = 0) -> np.ndarray:
    """int8 [shape], none of them 0 but those of the blocks that went."""
    random = np.random.default_rng(seed)
    rows, columns = shape[0] // block[0], shape[1] // block[1]
    gone = np.zeros(rows * columns, bool)
    gone[random.permutation(rows * columns)[: round(zeros * rows * columns)]] = True
    values = random.integers(1, 128, shape, dtype=np.int8)
    return np.where(gone.reshape(rows, columns).repeat(block[0], 0).repeat(block[1], 1), np.int8(0), values)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_pattern_that_was_pruned_is_found_and_takes_the_bytes_that_it_must(block: tuple[int, int]) -> None:
    weight = pruned((320, 640), block, 0.9)
    form = smallest(weight)
    assert form is not None and form.block == block
    assert form.size == weight.size * 0.1 + weight.size / (8 * block[0] * block[1])
    assert np.array_equal(dense(form, weight.shape), weight)


def test_what_would_not_shrink_stays_dense() -> None:
    assert smallest(pruned((64, 64), (1, 1), 0.1)) is None
    assert smallest(pruned((64, 64), (1, 1), 0.13)) is not None  # one bit in eight is paid back


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(BLOCKS), st.floats(0, 1), st.sampled_from(["int8", "f4"]))
def test_blocks_give_every_bit_back(rows: int, columns: int, block: Any, zeros: float, dtype: str) -> None:
    shape = (rows * block[0], columns * block[1])
    weight = pruned(shape, block, zeros, seed=rows).astype(dtype)
    if dtype == "f4":
        weight[0, 0], weight[-1, -1] = -0.0, np.nan
    for form in (sparse(weight, block), smallest(weight)):
        if form is not None:
            assert dense(form, shape).tobytes() == weight.tobytes()


@pytest.mark.parametrize("fault", ["block", "index", "values", "shape"])
def test_what_does_not_belong_together_is_refused(fault: str) -> None:
    form, shape = sparse(pruned((16, 16), (4, 4), 0.5), (4, 4)), (16, 16)
    given = {"block": form.block, "index": form.index, "values": form.values}
    changed: dict[str, Any] = {
        "block": {"block": (2, 2)},
        "index": {"index": form.index[:-1]},
        "values": {"values": form.values[:-1]},
        "shape": {},
    }
    with pytest.raises(ValueError, match="do(es)? not (fill|belong)"):
        dense(Sparse(**{**given, **changed[fault]}), (16, 18) if fault == "shape" else shape)


def save(path: Path, weights: dict[str, np.ndarray]) -> Path:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.INT64, [1])], [value("y", TensorProto.INT64, [1])])
    graph.initializer.extend(numpy_helper.from_array(weight, name) for name, weight in weights.items())
    onnx.save(helper.make_model(graph), path)
    return path


def test_constants_are_found_where_the_onnx_package_finds_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "table": random.integers(-9, 9, (300, 16), dtype=np.int8),
        "long": random.integers(0, 9, (900,)),  # int64: not for us
        "float": random.standard_normal((4, 8, 32)).astype(np.float32),
        "small": np.zeros((4, 4), np.int8),
        "bytes": random.integers(0, 9, LARGE, dtype=np.uint8),
    }
    path = save(tmp_path / "m.onnx", weights)
    content, found = path.read_bytes(), {one.name: one for one in constants(path)}
    assert list(found) == ["table", "float", "bytes"]
    for tensor in onnx.load(path).graph.initializer:
        if one := found.get(tensor.name):
            assert content[one.start : one.start + one.size] == tensor.raw_data
            value = numpy_helper.to_array(tensor)
            assert (one.shape, one.dtype) == (value.shape, str(value.dtype))


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 a zip, say", b"\x08\x07", b"\x3a\xff\xff\x03 too short", b"\xff" * 40]
)
def test_what_is_not_onnx_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="m.onnx is not an ONNX file"):
        constants(path)


def test_only_linear_layers_of_the_encoder_are_counted(tmp_path: Path) -> None:
    weights = {
        "/model/bert/encoder/layer.0/output/dense/MatMul_weight_int8": pruned((160, 320), (1, 1), 0.9),
        "/model/bert/encoder/layer.11/output/dense/MatMul_weight_int8": pruned((160, 320), (1, 4), 0.9),
        "/model/bert/pooler/dense/Gemm_weight_int8": pruned((160, 320), (1, 1), 0.0),
        "model.bert.embeddings.word_embeddings.weight_int8": pruned((160, 320), (1, 1), 0.0),
    }
    path = save(tmp_path / "m.onnx", weights)
    found = ratios.encoder(path)
    assert (found["weights"], found["zeros"]) == (2 * 160 * 320, 2 * 160 * 320 * 0.9)
    assert found["blocks"] == {"1x1": 1, "1x4": 1}
    assert found["ratios"]["nominal"] == pytest.approx(40)
    assert found["ratios"]["stored"] == pytest.approx(8 / (4 / 17.7778 + 4 / 30.4762), rel=1e-4)
    assert ratios.encoder(save(tmp_path / "n.onnx", {"other": pruned((160, 320), (1, 1), 0.9)})) == {}
