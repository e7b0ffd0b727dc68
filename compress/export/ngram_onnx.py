"""The n-gram student as an ONNX file: keys of words in, logits out, for runtimes other than our own.

Inputs are what `serve.ngram.encode` gives: `words` [B, L], for pairs also `words_2` [B, L2], 0 behind a text's last
word. Keys, look-up and the sum of the rows are whole numbers, so that they are exact and the same in any batch.
B texts, L words, N n-grams of all orders, D width of a row, H neurons, C labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serve.ngram.file import Model
from serve.ngram.keys import NEXT
from serve.ngram.lookup import STEP, STEPS

OPSET = 18  # the first with BitwiseAnd
IR = 10


def to_onnx(model: Model, path: Path) -> Path:
    """Write the file; its answers are those of `serve.ngram.plain` but for the rounding of the two dense layers."""
    graph = _Graph()
    names = ("words", "words_2")[: model.inputs]
    parts = [_mean(graph, model, name) for name in names]
    features = parts[0]
    if model.inputs == 2:
        difference = graph.add("Abs", graph.add("Sub", *parts))
        features = graph.add("Concat", *parts, graph.add("Mul", *parts), difference, axis=1)
    hidden = graph.add("Gemm", features, *graph.constants(model.dense_weight, model.dense_bias), transB=1)
    hidden = graph.add({"tanh": "Tanh", "relu": "Relu"}[model.activation], hidden)
    graph.add("Gemm", hidden, *graph.constants(model.out_weight, model.out_bias), transB=1, output="logits")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", f"length_{name}"]) for name in names]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(model.out_bias)])
    made = helper.make_model(
        helper.make_graph(graph.nodes, "ngrams", inputs, [output], graph.initialisers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="bantam",
    )
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, str(path))
    return path


class _Graph:
    """Nodes and constants, which get names by their number. Equal constants are one."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """The name of a new node's output."""
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        values = np.ascontiguousarray(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self.initialisers.append(numpy_helper.from_array(values, self._known[key]))
        return self._known[key]

    def constants(self, *several: np.ndarray) -> list[str]:
        return [self.constant(values) for values in several]

    def whole(self, *numbers: int) -> str:
        """int64 [numbers], as ONNX has it for most of its arguments."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def number(self, value: int, dtype: type = np.int64) -> str:
        """A scalar, from 64 bits with or without a sign."""
        return self.constant(np.array(value % (1 << 64), dtype=np.uint64).astype(dtype))

    def as_type(self, name: str, kind: int) -> str:
        return self.add("Cast", name, to=kind)

    def columns(self, name: str, start: int, end: int) -> str:
        """[:, start:end]"""
        return self.add("Slice", name, self.whole(start), self.whole(end), self.whole(1))


def _mean(graph: _Graph, model: Model, words: str) -> str:
    """The mean row [B, D] of a text's kept n-grams."""
    keys, last = _keys(graph, words, model.orders)
    slot = _slots(graph, model, keys)
    stored = graph.add("Gather", graph.constant(model.keys.view(np.int64)), slot)
    whole = graph.add("Not", graph.add("Equal", last, graph.number(0)))  # not into the padding
    hit = graph.add("And", graph.add("Equal", stored, keys), whole)
    row = graph.add("Where", hit, slot, graph.number(len(model.keys)))
    rows_BND = graph.add("Gather", graph.constant(model.rows), row)
    hits_B1N = graph.add("Unsqueeze", graph.as_type(hit, TensorProto.UINT8), graph.whole(1))
    sum_BD = graph.add("Squeeze", graph.add("MatMulInteger", hits_B1N, rows_BND), graph.whole(1))
    scaled = graph.add("Mul", graph.as_type(sum_BD, TensorProto.FLOAT), graph.constant(model.scale))
    count = graph.add("ReduceSum", graph.as_type(hit, TensorProto.FLOAT), graph.whole(1), keepdims=1)
    return graph.add("Div", scaled, graph.add("Max", count, graph.constant(np.ones(1, np.float32))))


def _keys(graph: _Graph, words: str, orders: int) -> tuple[str, str]:
    """Keys of the n-grams of all orders, and the last word of each; both [B, N]. int64 wraps as uint64 does."""
    padding = graph.constant(np.array([0, 0, 0, orders], dtype=np.int64))
    words = graph.add("Pad", words, padding)  # so that even no words are words enough
    keys, last = [words], [words]
    for order in range(1, orders):
        longer = graph.add("Mul", graph.columns(keys[-1], 0, -1), graph.number(NEXT))
        last.append(graph.columns(words, order, np.iinfo(np.int64).max))
        keys.append(graph.add("Add", longer, last[-1]))
    return _joined(graph, keys), _joined(graph, last)


def _joined(graph: _Graph, parts: Sequence[str]) -> str:
    return graph.add("Concat", *parts, axis=1)


def _slots(graph: _Graph, model: Model, keys: str) -> str:
    """The slot that each key would lie in, as `serve.ngram.lookup` has it."""
    first, second = (
        graph.as_type(graph.add("Mul", keys, graph.number(multiplier)), TensorProto.UINT64)
        for multiplier in model.multipliers
    )
    bucket = _shifted(graph, first, 64 - (len(model.displacement).bit_length() - 1))
    start = _shifted(graph, second, 64 - (len(model.keys).bit_length() - 1))
    step = graph.add("BitwiseAnd", _shifted(graph, second, STEP), graph.number(STEPS))
    step = graph.add("BitwiseOr", step, graph.number(1))
    displacement = graph.add("Gather", graph.constant(model.displacement), bucket)
    moved = graph.add("Add", start, graph.add("Mul", graph.as_type(displacement, TensorProto.INT64), step))
    return graph.add("BitwiseAnd", moved, graph.number(len(model.keys) - 1))


def _shifted(graph: _Graph, name: str, bits: int) -> str:
    """Shifted right, as int64."""
    shifted = graph.add("BitShift", name, graph.number(bits, np.uint64), direction="RIGHT")
    return graph.as_type(shifted, TensorProto.INT64)
