"""INT8 written as QuantizeLinear/DequantizeLinear pairs around float operators, from scales found elsewhere.

What makes onnxruntime run such a graph in integers (1.31): uint8 activations per tensor, int8 weights per output
channel, a Gemm's bias in int32 at the product of both scales, and nothing around the products' outputs. Only products
with constant weights are rewritten; attention's own products stay float.

Scales come from `calibrate` (our observer), from `pt2e` (neural-compressor's) or from a record of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper

from compress.export.graph import Product, constant, name_nodes, products, replace, tables

SMALLEST = 1e-8  # scale of a channel of zeros


@dataclass(frozen=True)
class Grid:
    """Where uint8 values lie: value = (integer - zero) * scale."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> "Grid":
        """The 256 values from `low` to `high`, widened to hold 0 exactly."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = max((high - low) / 255, SMALLEST)
        return cls(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def write(
    fp32: Path,
    target: Path,
    grids: Mapping[str, Grid],
    weight_scales: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `fp32` to `target` with its products in INT8 and its large tables as INT8 rows.

    `grids` has one entry for each activation that a product takes in. `weight_scales` [O], by the name of the
    product's node, replace the largest magnitude of each channel / 127.
    """
    model = onnx.load(fp32)
    graph = model.graph
    name_nodes(graph)
    new: dict[str, list[NodeProto]] = {}
    done: set[str] = set()
    for product in products(graph):
        grid = grids[product.activation]
        given = (weight_scales or {}).get(product.node.name)
        nodes = [] if product.activation in done else _activation(graph, product.activation, grid)
        new[product.node.name] = nodes + _product(graph, product, grid, given)
        done.add(product.activation)
    replace(graph, new)
    _tables(graph)
    del graph.value_info[:]
    onnx.save(model, target)


def quantise_tables(path: Path) -> None:
    """Turn the large lookup tables of the file into INT8, one scale a row."""
    model = onnx.load(path)
    name_nodes(model.graph)
    _tables(model.graph)
    del model.graph.value_info[:]
    onnx.save(model, path)


def integers(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int8 [...] nearest to `values` on the grid of `scales`, which must broadcast."""
    return np.clip(np.rint(values / scales), -128, 127).astype(np.int8)


def _activation(graph: onnx.GraphProto, name: str, grid: Grid) -> list[NodeProto]:
    scale = constant(graph, f"{name}_scale", np.float32(grid.scale))
    zero = constant(graph, f"{name}_zero", np.uint8(grid.zero))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_uint8"], name=f"{name}_quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_uint8", scale, zero], [f"{name}_float"], name=f"{name}_dequantize"
        ),
    ]


def _product(graph: onnx.GraphProto, product: Product, grid: Grid, scales: np.ndarray | None) -> list[NodeProto]:
    node = product.node
    if scales is None:
        scales = np.maximum(np.abs(product.weight).max(axis=1 - product.axis) / 127, SMALLEST)
    if product.bias is not None:  # must fit int32 at scale * grid.scale
        scales = np.maximum(scales, np.abs(product.bias) / (grid.scale * 2**30))
    scales = scales.astype(np.float32)
    weight = integers(product.weight, np.expand_dims(scales, 1 - product.axis))
    nodes = [_constant_dequantize(graph, f"{node.name}_weight", weight, scales, product.axis)]
    inputs = [f"{product.activation}_float", nodes[0].output[0]]
    if product.bias is not None:
        at = (scales * np.float32(grid.scale)).astype(np.float32)
        bias = np.rint(product.bias.astype(np.float64) / at).astype(np.int32)
        nodes.append(_constant_dequantize(graph, f"{node.name}_bias", bias, at, 0))
        inputs.append(nodes[1].output[0])
    fresh = NodeProto()
    fresh.CopyFrom(node)
    del fresh.input[:]
    fresh.input.extend(inputs)
    return [*nodes, fresh]


def _constant_dequantize(
    graph: onnx.GraphProto, name: str, values: np.ndarray, scales: np.ndarray, axis: int
) -> NodeProto:
    stored = constant(graph, f"{name}_{values.dtype}", values)
    scale = constant(graph, f"{name}_scale", scales)
    zero = constant(graph, f"{name}_zero", np.zeros(len(scales), values.dtype))
    return helper.make_node(
        "DequantizeLinear", [stored, scale, zero], [f"{name}_float"], name=f"{name}_dequantize", axis=axis
    )


def _tables(graph: onnx.GraphProto) -> None:
    """Gather INT8 rows and their scales, then multiply: to dequantise first would expand the whole table each call."""
    new: dict[str, list[NodeProto]] = {}
    stored: dict[str, tuple[str, str]] = {}
    for table in tables(graph):
        name, rows, output = table.node.input[0], table.node.input[1], table.node.output[0]
        if name not in stored:
            scales = np.maximum(np.abs(table.weight).max(axis=1, keepdims=True) / 127, SMALLEST).astype(np.float32)
            values = constant(graph, f"{name}_int8", integers(table.weight, scales))
            stored[name] = values, constant(graph, f"{name}_row_scale", scales)
        values, scale = stored[name]
        new[table.node.name] = [
            helper.make_node("Gather", [values, rows], [f"{output}_int8"], name=f"{output}_rows", axis=0),
            helper.make_node("Gather", [scale, rows], [f"{output}_scale"], name=f"{output}_scales", axis=0),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], name=f"{output}_cast", to=1),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output], name=f"{output}_dequantize"),
        ]
    replace(graph, new)
