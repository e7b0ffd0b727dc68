from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from compress.export.gate import fallen_back
from compress.export.kernels import count_kernels, kernels
from compress.export.qdq import Grid, write


def chain(path: Path, *, gemm: bool = False) -> Path:
    """x [B, 8] times a constant [8, 8], times a constant [8, 4], plus the product of the result with itself."""
    random = np.random.default_rng(0)
    first, second = (random.normal(size=shape).astype(np.float32) for shape in ((8, 8), (8, 4)))
    last = helper.make_node("Gemm", ["h", "second", "bias"], ["y"]) if gemm else None
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"], name="one"),
            last or helper.make_node("MatMul", ["h", "second"], ["y"], name="two"),
            helper.make_node("Transpose", ["y"], ["yt"], perm=[1, 0]),
            helper.make_node("MatMul", ["yt", "y"], ["z"], name="pairs"),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(second, "second"),
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


GRIDS = {"x": Grid.over(-4, 4), "h": Grid.over(-10, 10)}


def test_a_float_graph_has_no_integer_product(tmp_path: Path) -> None:
    found = kernels(chain(tmp_path / "float.onnx"))
    assert found == (0, 2, 1)
    assert "2 of 2" in str(fallen_back(found))


def test_one_quantised_and_one_float_product_are_told_apart(tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    quantize_dynamic(chain(tmp_path / "float.onnx"), target, nodes_to_quantize=["one"], weight_type=QuantType.QInt8)
    assert count_kernels(target) == (1, 1)
    assert "1 of 2" in str(fallen_back(kernels(target)))


def test_our_qdq_reaches_integer_kernels(tmp_path: Path) -> None:
    for gemm in (False, True):
        target = tmp_path / f"qdq_{gemm}.onnx"
        write(chain(tmp_path / "float.onnx", gemm=gemm), target, GRIDS)
        assert kernels(target) == (2, 0, 1)
        assert fallen_back(kernels(target)) is None


def test_a_weight_that_is_expanded_at_each_call_counts_as_float(tmp_path: Path) -> None:
    """INT8 on disk, float in the product, and onnxruntime says nothing: here because a Gemm's bias is left float."""
    target = tmp_path / "qdq.onnx"
    write(chain(tmp_path / "float.onnx", gemm=True), target, GRIDS)
    model = onnx.load(target)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[2] = "bias"
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=np.float32), "bias"))
    onnx.save(model, target)
    assert kernels(target) == (1, 1, 1)
