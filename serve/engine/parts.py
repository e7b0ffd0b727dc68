"""What single modules hold, from the nodes that were traced in them: products, normalisations, tables.

The file's own integers and scales are taken, so that the engine multiplies the same numbers as onnxruntime. Raises
KeyError, StopIteration or ValueError where a module is not laid out as our exporter and onnxruntime's quantiser do it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.graph import Graph, Node
from serve.engine.network import Declined, Floats, Linear, Norm

WORDS = "embeddings.word_embeddings"


class Parts:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scopes: dict[str, list[Node]] = {}  # by the module that they were traced in
        for node in graph.nodes:
            self.scopes.setdefault(node.scope, []).append(node)
        self.base = self._base()  # what the names of the encoder's modules begin with, "bert." or "" if traced alone
        self.epsilons: set[float] = set()  # of the normalisations read so far

    def _base(self) -> str:
        found = [scope.removesuffix(WORDS) for scope in self.scopes if f".{scope}".endswith(f".{WORDS}")]
        if len(found) != 1:
            raise Declined(f"it has {len(found)} modules {WORDS}, and of one the encoder is known")
        return found[0]

    def one(self, scope: str, *operators: str) -> Node | None:
        """The node of that module with one of these operators. Raises ValueError for several."""
        found = [node for node in self.scopes.get(scope, []) if node.operator in operators]
        if len(found) > 1:
            raise ValueError(f"{scope} has {len(found)} nodes {operators[0]}")
        return found[0] if found else None

    def words(self) -> tuple[NDArray[np.int8], Floats]:
        """The word embeddings: integers and the scale of each row."""
        tables = self._gathered("word_embeddings")
        if len(tables) == 1 and tables[0].dtype == np.float32:  # a small vocabulary stays in float
            scale = np.maximum(np.abs(tables[0]).max(1) / 127, 1e-8).astype(np.float32)
            return np.rint(tables[0] / scale[:, None]).astype(np.int8), scale
        words = next(table for table in tables if table.dtype == np.int8)
        scale = next(table for table in tables if table.dtype == np.float32)
        return words, scale.reshape(len(words))

    def table(self, name: str, width: int) -> Floats:
        tables = self._gathered(name)
        if not tables:  # DistilBERT has no token types
            return np.zeros((1, width), np.float32)
        if len(tables) == 1:
            return tables[0].astype(np.float32)
        values, scale = sorted(tables, key=lambda table: table.dtype.itemsize)
        found: Floats = (values * scale).astype(np.float32)
        return found

    def _gathered(self, name: str) -> list[NDArray[Any]]:
        nodes = self.scopes.get(f"{self.base}embeddings.{name}", [])
        names = dict.fromkeys(node.inputs[0] for node in nodes if node.operator == "Gather")
        return [self.graph.constants[name] for name in names if name in self.graph.constants]

    def norm(self, scope: str) -> Norm:
        node = self.one(scope, "LayerNormalization")
        if node is None:
            raise KeyError(scope)
        self.epsilons.add(float(node.attributes.get("epsilon", 1e-5)))
        gain, bias = (self.graph.constants[name] for name in node.inputs[1:3])
        return Norm(gain, bias)

    def output(self, norm: str) -> str:
        """The tensor that a LayerNorm gives."""
        node = self.one(norm, "LayerNormalization")
        if node is None:
            raise KeyError(norm)
        return node.outputs[0]

    def bias_only(self, norm: str) -> Linear:
        """What is left of an output projection without inputs, where the LayerNorm's input is hidden + bias."""
        node = self.one(norm, "LayerNormalization")
        added = self.graph.makers[node.inputs[0]].inputs if node else ()
        bias = next(self.graph.constants[name] for name in added if name in self.graph.constants)
        return Linear(np.zeros((len(bias), 0), np.int8), np.ones(len(bias), np.float32), bias)

    def maybe(self, scope: str) -> Linear | None:
        """The product of a module, None where the module has none."""
        return self.linear(scope) if self.one(scope, "MatMul", "Gemm", "MatMulInteger") else None

    def linear(self, scope: str) -> Linear:
        node = self.one(scope, "MatMul", "Gemm", "MatMulInteger")
        if node is None:
            raise KeyError(scope)
        found = self._dynamic(node) if node.operator == "MatMulInteger" else self._static(node)
        if found.weight.dtype != np.int8 or found.scale.shape != (len(found.weight),):
            raise ValueError(f"{scope} is {found.weight.dtype} with {found.scale.size} scales")
        return found

    def _dynamic(self, node: Node) -> Linear:
        constants, graph = self.graph.constants, self.graph
        weight = constants[node.inputs[1]]
        if len(node.inputs) > 3 and constants[node.inputs[3]].any():
            raise Declined("its weights have zero points")
        cast = graph.users[node.outputs[0]][0]
        product = graph.users[cast.outputs[0]][0]
        scales = graph.makers[next(name for name in product.inputs if name != cast.outputs[0])]
        scale = next(constants[name] for name in scales.inputs if name in constants)
        return Linear(weight.T, np.broadcast_to(scale, weight.shape[1]), self._added(product, weight.shape[1]))

    def _static(self, node: Node) -> Linear:
        constants, makers = self.graph.constants, self.graph.makers
        if node.inputs[1] in constants:
            raise Declined(f"its weights are {constants[node.inputs[1]].dtype}, not int8")
        stored, scale, *zero = (constants[name] for name in makers[node.inputs[1]].inputs)
        step, point = (constants[name] for name in makers[node.inputs[0]].inputs[1:3])
        if (zero and zero[0].any()) or point.dtype != np.uint8 or step.size != 1:
            raise Declined("its weights have zero points, or its activations are not uint8 of one range")
        weight = stored if node.attributes.get("transB") else stored.T
        if len(node.inputs) > 2:
            integers, grid = (constants[name] for name in makers[node.inputs[2]].inputs[:2])
            bias = (integers.astype(np.float64) * grid).astype(np.float32)
        else:
            bias = self._added(node, len(weight))
        scale = np.broadcast_to(scale.astype(np.float32), len(weight))
        return Linear(weight, scale, bias, float(step), int(point))

    def _added(self, node: Node, outputs: int) -> Floats:
        """The constant that is added to what a node gives, zeros where none is."""
        for user in self.graph.users.get(node.outputs[0], []):
            for name in user.inputs if user.operator == "Add" else ():
                value = self.graph.constants.get(name)
                if value is not None and value.shape == (outputs,):
                    return value
        return np.zeros(outputs, np.float32)
