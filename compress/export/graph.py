"""What quantisers and counters ask of an ONNX graph: its products with constant weights, and its lookup tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

TABLE_ROWS = 1024  # a smaller table (positions, segments) stays float: little to save, and each lookup would cost nodes


@dataclass(frozen=True)
class Product:
    """`activation` times a constant weight, in a MatMul or a Gemm."""

    node: NodeProto
    activation: str
    weight: np.ndarray  # as stored: [I, O], or [O, I] where `axis` is 0
    axis: int  # of the output channels
    bias: np.ndarray | None  # [O]; a Gemm's own


@dataclass(frozen=True)
class Table:
    """A constant [rows, D] of which a Gather takes rows."""

    node: NodeProto
    weight: np.ndarray


def products(graph: onnx.GraphProto) -> list[Product]:
    """The products that INT8 can take over, in the graph's order."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[0] in constants:
            continue
        weight = constants.get(node.input[1])
        if weight is None or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        bias, axis = None, 1
        if node.op_type == "Gemm":
            given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            bias = constants.get(node.input[2]) if len(node.input) > 2 else None
            simple = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
            if not simple or (len(node.input) > 2 and (bias is None or len(bias.dims) != 1)):
                continue
            axis = 0 if given.get("transB", 0) else 1
        offset = None if bias is None else numpy_helper.to_array(bias)
        found.append(Product(node, node.input[0], numpy_helper.to_array(weight), axis, offset))
    return found


def tables(graph: onnx.GraphProto) -> Iterator[Table]:
    """The embedding tables that are worth quantising."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.data_type != onnx.TensorProto.FLOAT:
            continue
        rows_first = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
        if rows_first and table.dims[0] > TABLE_ROWS:
            yield Table(node, numpy_helper.to_array(table))


def replace(graph: onnx.GraphProto, new: dict[str, list[NodeProto]]) -> None:
    """Put the nodes of `new` in the place of the node of that name, and drop constants that nobody uses any more."""
    nodes = [fresh for node in graph.node for fresh in new.get(node.name, [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    """Add `value` to the graph as `name`."""
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a name of its own."""
    seen: set[str] = set()
    for at, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{at}"
        seen.add(node.name)
