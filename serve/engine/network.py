"""An artefact's INT8 ONNX file as the layers that the engine knows, or the reason why it declines.

The file's own integers and scales are taken, so that the engine multiplies the same numbers as onnxruntime. Nodes are
found by the module that they were traced in, and `config.json` tells the size of a head and the activation. Whether all
of it was understood is not argued but measured: see `runtime.rehearse`.

Shapes: D width, N outputs, K inputs, d size of a head.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.graph import Graph, Node, read
from serve.errors import ArtefactError

Floats = NDArray[np.float32]
WIDEST, LONGEST = 16384, 8192  # as in source/engine.h
ACTIVATIONS = {"gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3, "tanh": 4}


class Declined(Exception):
    """Why the engine does not run this artefact."""


@dataclass
class Linear:
    weight: NDArray[np.int8]  # [N, K]
    scale: Floats  # [N]
    bias: Floats  # [N]
    step: float = 0.0  # of the activations it takes in; 0: measured for each token
    zero: int = 0


@dataclass
class Norm:
    gain: Floats  # [D]
    bias: Floats  # [D]


@dataclass
class Layer:
    query: Linear | None  # None: no heads are left
    key: Linear | None
    value: Linear | None
    out: Linear  # K = 0 where no heads are left
    first: Norm
    up: Linear | None  # None: no neurons are left
    down: Linear
    second: Norm


@dataclass
class Network:
    words: NDArray[np.int8]  # [vocabulary, D]
    word_scale: Floats  # [vocabulary]
    positions: Floats  # [positions, D]
    types: Floats  # [types, D]
    norm: Norm
    head_size: int
    activation: str
    head_activation: str
    epsilon: float
    first_position: int = 0
    pad: int | None = None  # the id that takes no position of its own, as in RoBERTa
    layers: list[Layer] = field(default_factory=list)
    head: list[Linear] = field(default_factory=list)

    @property
    def longest(self) -> int:
        return len(self.positions) - self.first_position


@dataclass(frozen=True)
class Family:
    """Names of modules, as in `compress.anatomy`, and the configuration's words."""

    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    out: str = "attention.output.dense"
    first: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    second: str = "output.LayerNorm"
    head: tuple[str, ...] = ("classifier.dense", "classifier.out_proj")
    head_activation: str = "tanh"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"
    counts_pads: bool = True


BERT = Family(head=("bert.pooler.dense", "classifier"))
ROBERTA = Family(counts_pads=False)
FAMILIES = {
    "bert": BERT,
    "camembert": ROBERTA,
    "distilbert": Family(
        layer="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        out="attention.out_lin",
        first="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        second="output_layer_norm",
        head=("pre_classifier", "classifier"),
        head_activation="relu",
        width="dim",
        heads="n_heads",
        activation="activation",
    ),
    "electra": Family(head_activation="gelu"),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}
BASES = {"camembert": "roberta", "xlm-roberta": "roberta"}  # names of the encoder's module, where not the family's


def network(onnx: Path, config: Path) -> Network:
    """The network in an INT8 file. Raises Declined with the reason where the engine cannot run it."""
    try:
        told: Any = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise Declined(f"{config.name} cannot be read, and it tells the heads: {error}") from None
    kind = told.get("model_type") if isinstance(told, dict) else None
    if kind not in FAMILIES:
        raise Declined(f"it knows {', '.join(FAMILIES)}, not {kind!r}")
    if told.get("position_embedding_type", "absolute") != "absolute":
        raise Declined(f"its positions are {told['position_embedding_type']!r}, not absolute")
    try:
        return _Reading(read(onnx), FAMILIES[kind], BASES.get(str(kind), str(kind)), told).network()
    except ArtefactError as error:
        raise Declined(str(error)) from None
    except (KeyError, IndexError, StopIteration, TypeError, ValueError) as error:
        raise Declined(f"{onnx.name} is not laid out as a {kind} is: {error!r}") from None


class _Reading:
    def __init__(self, graph: Graph, family: Family, base: str, told: dict[str, Any]) -> None:
        self.graph, self.family, self.base, self.told = graph, family, base, told
        self.scopes: dict[str, list[Node]] = {}
        for node in graph.nodes:
            self.scopes.setdefault(node.scope, []).append(node)
        self.epsilons: set[float] = set()

    def network(self) -> Network:
        family, told = self.family, self.told
        width, heads = int(told[family.width]), int(told[family.heads])
        activation = told.get(family.activation, "gelu")
        if activation not in ACTIVATIONS or activation == "tanh":
            raise Declined(f"its activation {activation!r} is not one of gelu, gelu_new, relu")
        words, word_scale = self._words()
        self._confirm(width // heads)
        if words.shape[1] != width or width % heads:
            raise Declined(f"its embeddings are {words.shape[1]} wide and its {heads} heads {width} together")
        pad = None if family.counts_pads else int(told["pad_token_id"])
        layers = [self._layer(index) for index in range(self._depth())]
        found = Network(
            words=words,
            word_scale=word_scale,
            positions=self._table("position_embeddings", width),
            types=self._table("token_type_embeddings", width),
            norm=self._norm(f"{self.base}.embeddings.LayerNorm"),
            head_size=width // heads,
            activation=activation,
            head_activation=family.head_activation,
            epsilon=max(self.epsilons),
            first_position=0 if pad is None else pad + 1,
            pad=pad,
            layers=layers,
            head=[self._linear(scope) for scope in family.head],
        )
        self._check(found, width)
        return found

    def _check(self, found: Network, width: int) -> None:
        if len(self.epsilons) != 1:
            raise Declined(f"its LayerNorms have several epsilons: {sorted(self.epsilons)}")
        widest = max([width, *(len(layer.up.scale) for layer in found.layers if layer.up)])
        if max(widest, 3 * width) > WIDEST or len(found.positions) > LONGEST:
            raise Declined(f"it is wider than {WIDEST}, or longer than {LONGEST}: {widest}, {len(found.positions)}")
        for layer in found.layers:
            if layer.query is None or layer.key is None or layer.value is None:
                continue
            shapes = {one.weight.shape for one in (layer.query, layer.key, layer.value)}
            grids = {(one.step, one.zero) for one in (layer.query, layer.key, layer.value)}
            if len(shapes) != 1 or len(grids) != 1 or layer.query.weight.shape[0] % found.head_size:
                raise Declined("its queries, keys and values differ in shape or range")

    def _confirm(self, size: int) -> None:
        """Declined unless every attention reshapes to heads of that size: the matrices would suit any other, too."""
        for scope, nodes in self.scopes.items():
            if not scope.startswith(f"{self.base}.{self.family.layer}.") or not self._one(scope, "Softmax"):
                continue
            values = [self.graph.constants.get(name) for node in nodes for name in node.inputs]
            if not any(value is not None and value.dtype == np.int64 and size in value for value in values):
                raise Declined(f"config.json tells heads of {size}, and {scope} has others")

    def _depth(self) -> int:
        prefix = f"{self.base}.{self.family.layer}."
        return 1 + max(int(scope[len(prefix) :].split(".")[0]) for scope in self.scopes if scope.startswith(prefix))

    def _layer(self, index: int) -> Layer:
        family, scope = self.family, f"{self.base}.{self.family.layer}.{index}"
        query, key, value = (self._maybe(f"{scope}.{name}") for name in (family.query, family.key, family.value))
        up = self._maybe(f"{scope}.{family.up}")
        first, second = f"{scope}.{family.first}", f"{scope}.{family.second}"
        return Layer(
            query=query,
            key=key,
            value=value,
            out=self._linear(f"{scope}.{family.out}") if query else self._bias_only(first),
            first=self._norm(first),
            up=up,
            down=self._linear(f"{scope}.{family.down}") if up else self._bias_only(second),
            second=self._norm(second),
        )

    def _one(self, scope: str, *operators: str) -> Node | None:
        found = [node for node in self.scopes.get(scope, []) if node.operator in operators]
        if len(found) > 1:
            raise ValueError(f"{scope} has {len(found)} nodes {operators[0]}")
        return found[0] if found else None

    def _words(self) -> tuple[NDArray[np.int8], Floats]:
        tables = self._gathered("word_embeddings")
        if len(tables) == 1 and tables[0].dtype == np.float32:  # a small vocabulary stays in float
            scale = np.maximum(np.abs(tables[0]).max(1) / 127, 1e-8).astype(np.float32)
            return np.rint(tables[0] / scale[:, None]).astype(np.int8), scale
        words = next(table for table in tables if table.dtype == np.int8)
        scale = next(table for table in tables if table.dtype == np.float32)
        return words, scale.reshape(len(words))

    def _table(self, name: str, width: int) -> Floats:
        tables = self._gathered(name)
        if not tables:  # DistilBERT has no token types
            return np.zeros((1, width), np.float32)
        if len(tables) == 1:
            return tables[0].astype(np.float32)
        values, scale = sorted(tables, key=lambda table: table.dtype.itemsize)
        found: Floats = (values * scale).astype(np.float32)
        return found

    def _gathered(self, name: str) -> list[NDArray[Any]]:
        nodes = self.scopes.get(f"{self.base}.embeddings.{name}", [])
        names = dict.fromkeys(node.inputs[0] for node in nodes if node.operator == "Gather")
        return [self.graph.constants[name] for name in names if name in self.graph.constants]

    def _norm(self, scope: str) -> Norm:
        node = self._one(scope, "LayerNormalization")
        if node is None:
            raise KeyError(scope)
        self.epsilons.add(float(node.attributes.get("epsilon", 1e-5)))
        gain, bias = (self.graph.constants[name] for name in node.inputs[1:3])
        return Norm(gain, bias)

    def _bias_only(self, norm: str) -> Linear:
        """What is left of an output projection without inputs, where the LayerNorm's input is hidden + bias."""
        node = self._one(norm, "LayerNormalization")
        added = self.graph.makers[node.inputs[0]].inputs if node else ()
        bias = next(self.graph.constants[name] for name in added if name in self.graph.constants)
        return Linear(np.zeros((len(bias), 0), np.int8), np.ones(len(bias), np.float32), bias)

    def _maybe(self, scope: str) -> Linear | None:
        return self._linear(scope) if self._one(scope, "MatMul", "Gemm", "MatMulInteger") else None

    def _linear(self, scope: str) -> Linear:
        node = self._one(scope, "MatMul", "Gemm", "MatMulInteger")
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


def attention_scale(head_size: int) -> float:
    """What scores are multiplied with so that their powers of two are softmax's powers of e."""
    return math.log2(math.e) / math.sqrt(head_size)
