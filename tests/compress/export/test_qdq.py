from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.export import calibrate
from compress.export.calibrate import Histogram
from compress.export.qdq import Grid, integers, quantise_tables, write


def linear(path: Path, weight: np.ndarray, bias: np.ndarray, *, transposed: bool = False) -> Path:
    """y = x W + b as one Gemm; `weight` [I, O]."""
    stored = weight.T.copy() if transposed else weight
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["logits"], transB=int(transposed))],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("transposed", [False, True])
def test_integers_on_integer_grids_are_exact(transposed: bool, tmp_path: Path) -> None:
    """With scales of 1 the file must agree with int64 arithmetic, whatever kernels this processor has."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (64, 8)).astype(np.float32)
    weight[0] = 127  # so that each channel's scale is 1
    bias = random.integers(-1000, 1000, 8).astype(np.float32)
    source = linear(tmp_path / "float.onnx", weight, bias, transposed=transposed)
    write(source, tmp_path / "int8.onnx", {"x": Grid(1.0, 0)})
    x = random.integers(0, 256, (5, 64)).astype(np.float32)
    x[0] = 255  # every product at its largest: where a processor saturates in 16 bits, it shows here
    exact = x.astype(np.int64) @ weight.astype(np.int64) + bias.astype(np.int64)
    np.testing.assert_array_equal(ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})[0], exact)


def test_a_channel_of_zeros_keeps_its_bias(tmp_path: Path) -> None:
    weight, bias = np.ones((4, 2), np.float32), np.array([0.5, 7.25], np.float32)
    weight[:, 1] = 0
    write(linear(tmp_path / "float.onnx", weight, bias), tmp_path / "int8.onnx", {"x": Grid.over(-1, 1)})
    got = ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": np.zeros((1, 4), np.float32)})[0]
    np.testing.assert_allclose(got, [[0.5, 7.25]], rtol=1e-3)


def test_given_weight_scales_are_used(tmp_path: Path) -> None:
    weight, bias = np.full((4, 2), 0.3, np.float32), np.zeros(2, np.float32)
    source = linear(tmp_path / "float.onnx", weight, bias)
    write(source, tmp_path / "int8.onnx", {"x": Grid(1.0, 0)}, {"Gemm_0": np.array([0.25, 0.1])})
    got = ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": np.ones((1, 4), np.float32)})[0]
    np.testing.assert_allclose(got, [[1.0, 1.2]], rtol=1e-6)  # 0.3 is one step of 0.25, three of 0.1


def test_a_grid_holds_zero_and_both_ends() -> None:
    grid = Grid.over(-1.0, 3.0)
    assert ((0 - grid.zero) * grid.scale, (255 - grid.zero) * grid.scale) == pytest.approx((-1, 3), abs=grid.scale / 2)
    assert Grid.over(2.0, 3.0) == Grid.over(0.0, 3.0)
    assert Grid.over(0.0, 0.0).scale > 0


def test_values_are_at_most_half_a_step_away() -> None:
    values = np.random.default_rng(0).normal(size=(100, 16))
    scales = np.abs(values).max(axis=0) / 127
    assert (np.abs(integers(values, scales) * scales - values) <= scales / 2 + 1e-9).all()


def test_tables_become_int8_rows_and_are_never_expanded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = (random.normal(size=(2000, 16)) * random.uniform(0.01, 10, (2000, 1))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(table, "table")],
    )
    path = tmp_path / "lookup.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    quantise_tables(path)
    assert path.stat().st_size < 0.35 * table.nbytes
    assert {node.op_type for node in onnx.load(path).graph.node} == {"Gather", "Cast", "Mul"}
    ids = np.arange(2000)
    got = ort.InferenceSession(path).run(None, {"ids": ids})[0]
    assert (np.abs(got - table) <= np.abs(table).max(axis=1, keepdims=True) / 254 * 1.001).all()


def test_least_squares_cuts_off_a_lone_outlier_and_minmax_does_not() -> None:
    random = np.random.default_rng(0)
    values = np.append(random.normal(size=1_000_000), [12.0])  # optimum near 4.5, by hand
    histogram = Histogram()
    histogram.widen(values)
    histogram.add(values)
    whole, cut = (calibrate.grids({"x": histogram}, method)["x"] for method in ("minmax", "mse"))
    top = {name: (255 - grid.zero) * grid.scale for name, grid in (("whole", whole), ("cut", cut))}
    assert top["whole"] == pytest.approx(12, rel=0.01)
    assert 3 < top["cut"] < 8

    def error(grid: Grid) -> float:
        steps = np.clip(np.rint(values / grid.scale) + grid.zero, 0, 255)
        return float((((steps - grid.zero) * grid.scale - values) ** 2).sum())

    assert error(cut) < error(whole)


def test_percentile_leaves_out_its_share() -> None:
    values = np.linspace(-1, 1, 100_001)
    histogram = Histogram()
    histogram.widen(values)
    histogram.add(values)
    grid = calibrate.grids({"x": histogram}, "p99.99")["x"]
    assert (255 - grid.zero) * grid.scale == pytest.approx(0.9998, abs=0.01)
