"""Nodes and constants of an ONNX file, read without the onnx package.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import ArtefactError
from serve.packing.onnx_file import fields, varint

GRAPH = 7  # of ModelProto
NODE, INITIALISER, GIVEN = 1, 5, 12  # of GraphProto; GIVEN: its outputs
VALUE_NAME = 1  # of ValueInfoProto
INPUT, OUTPUT, NODE_NAME, OPERATOR, ATTRIBUTE = 1, 2, 3, 4, 5  # of NodeProto
FLOAT, INTEGER, TENSOR = 2, 3, 5  # of AttributeProto; its name is 1
DIMS, TYPE, FLOATS, INT32S, INT64S, NAME, RAW = 1, 2, 4, 5, 7, 8, 9  # of TensorProto
FLOAT32, INT64 = 1, 7  # TensorProto.DataType
DTYPES = {FLOAT32: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, INT64: np.int64}


@dataclass(frozen=True)
class Node:
    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers only

    @property
    def scope(self) -> str:
        """The dotted name of the module that the node was traced in."""
        return self.name.strip("/").removeprefix("model/").rpartition("/")[0].replace("/", ".")


@dataclass
class Graph:
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    makers: dict[str, Node] = field(default_factory=dict)  # by the name of an output
    users: dict[str, list[Node]] = field(default_factory=dict)  # by the name of an input
    outputs: list[str] = field(default_factory=list)


def read(path: Path) -> Graph:
    """The graph of the file. Raises ArtefactError where it is not an ONNX file."""
    graph = Graph()
    try:
        data = path.read_bytes()
        for number, _, start, end in fields(data, 0, len(data)):
            if number == GRAPH:
                _read(graph, data, start, end)
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise ArtefactError(f"{path} is not an ONNX file: {error}") from None
    for node in graph.nodes:
        graph.makers |= dict.fromkeys(node.outputs, node)
        for name in node.inputs:
            graph.users.setdefault(name, []).append(node)
    return graph


def _read(graph: Graph, data: bytes, start: int, end: int) -> None:
    for number, _, low, high in fields(data, start, end):
        if number == NODE:
            node, value = _node(data, low, high)
            if value is None:
                graph.nodes.append(node)
            else:
                graph.constants[node.outputs[0]] = value
        elif number == INITIALISER:
            name, value = _tensor(data, low, high)
            if value is not None:
                graph.constants[name] = value
        elif number == GIVEN:
            graph.outputs += [data[at:to].decode() for one, _, at, to in fields(data, low, high) if one == VALUE_NAME]


def _node(data: bytes, start: int, end: int) -> tuple[Node, NDArray[Any] | None]:
    """A node, with its value where it is a Constant."""
    texts: dict[int, list[str]] = {INPUT: [], OUTPUT: [], NODE_NAME: [""], OPERATOR: [""]}
    attributes: dict[str, Any] = {}
    for number, _, low, high in fields(data, start, end):
        if number in texts:
            texts[number].append(data[low:high].decode())
        elif number == ATTRIBUTE:
            name, attribute = _attribute(data, low, high)
            attributes[name] = attribute
    operator = texts[OPERATOR][-1]
    node = Node(operator, texts[NODE_NAME][-1], tuple(texts[INPUT]), tuple(texts[OUTPUT]), attributes)
    return node, attributes.get("value") if operator == "Constant" else None


def _attribute(data: bytes, start: int, end: int) -> tuple[str, Any]:
    name, found = "", None
    for number, value, low, high in fields(data, start, end):
        if number == 1:
            name = data[low:high].decode()
        elif number == FLOAT:
            found = struct.unpack("<f", data[low:high])[0]
        elif number == INTEGER:
            found = value - (1 << 64) if value >> 63 else value
        elif number == TENSOR:
            found = _tensor(data, low, high)[1]
    return name, found


def _tensor(data: bytes, start: int, end: int) -> tuple[str, NDArray[Any] | None]:
    """Name and value; None for types that no engine reads, and for values that lie in another file."""
    name, kind, shape, raw, numbers = "", 0, [], None, list[float]()
    for number, value, low, high in fields(data, start, end):
        if number == DIMS:
            shape += [value] if low == high else list(_varints(data, low, high))
        elif number == TYPE:
            kind = value
        elif number == NAME:
            name = data[low:high].decode()
        elif number == RAW:
            raw = data[low:high]
        elif number == FLOATS:
            numbers += struct.unpack(f"<{(high - low) // 4}f", data[low:high])
        elif number in (INT32S, INT64S):
            whole = [value] if low == high else _varints(data, low, high)
            numbers += [one - (1 << 64) if one >> 63 else one for one in whole]
    if kind not in DTYPES:
        return name, None
    flat = np.frombuffer(raw, DTYPES[kind]) if raw is not None else np.array(numbers, DTYPES[kind])
    return name, flat.reshape(shape) if flat.size == math.prod(shape) else None


def _varints(data: bytes, low: int, high: int) -> Iterator[int]:
    while low < high:
        value, low = varint(data, low)
        yield value
