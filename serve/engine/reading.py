"""An artefact's INT8 ONNX file as the layers that the engine knows, or the reason why it declines.

Nodes are found by the module that they were traced in, and `config.json` tells the size of a head and the activation.
Whether all of it was understood is not argued but measured: see `runtime.rehearse`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.engine.graph import Graph, read
from serve.engine.heads import read_head
from serve.engine.network import ACTIVATIONS, LONGEST, WIDEST, Declined, Layer, Network
from serve.engine.parts import Parts
from serve.errors import ArtefactError


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
        return _Reading(read(onnx), FAMILIES[kind], told).network()
    except ArtefactError as error:
        raise Declined(str(error)) from None
    except (KeyError, IndexError, StopIteration, TypeError, ValueError) as error:
        raise Declined(f"{onnx.name} is not laid out as a {kind} is: {error!r}") from None


class _Reading:
    def __init__(self, graph: Graph, family: Family, told: dict[str, Any]) -> None:
        self.graph, self.family, self.told = graph, family, told
        self.parts = Parts(graph)
        self.base = self.parts.base

    def network(self) -> Network:
        family, told = self.family, self.told
        width, heads = int(told[family.width]), int(told[family.heads])
        activation = told.get(family.activation, "gelu")
        if activation not in ACTIVATIONS or activation == "tanh":
            raise Declined(f"its activation {activation!r} is not one of gelu, gelu_new, relu")
        words, word_scale = self.parts.words()
        self._confirm(width // heads)
        if words.shape[1] != width or width % heads:
            raise Declined(f"its embeddings are {words.shape[1]} wide and its {heads} heads {width} together")
        pad = None if family.counts_pads else int(told["pad_token_id"])
        depth = self._depth()
        layers = [self._layer(index) for index in range(depth)]
        norms = [f"{self.base}{family.layer}.{index}.{family.second}" for index in range(depth)]
        norms.insert(0, f"{self.base}embeddings.LayerNorm")
        hidden = [self.parts.output(norm) for norm in norms]
        head = read_head(self.parts, family.head, hidden[-1])
        found = Network(
            words=words,
            word_scale=word_scale,
            positions=self.parts.table("position_embeddings", width),
            types=self.parts.table("token_type_embeddings", width),
            norm=self.parts.norm(norms[0]),
            head_size=width // heads,
            activation=activation,
            head_activation=family.head_activation,
            epsilon=max(self.parts.epsilons),
            first_position=0 if pad is None else pad + 1,
            pad=pad,
            layers=layers,
            head=head.linears,
            reads=head.reads,
            unit=head.unit,
            tensors=[*hidden, head.tensor],
        )
        self._check(found, width)
        return found

    def _check(self, found: Network, width: int) -> None:
        if len(self.parts.epsilons) != 1:
            raise Declined(f"its LayerNorms have several epsilons: {sorted(self.parts.epsilons)}")
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
        for scope, nodes in self.parts.scopes.items():
            if not scope.startswith(f"{self.base}{self.family.layer}.") or not self.parts.one(scope, "Softmax"):
                continue
            values = [self.graph.constants.get(name) for node in nodes for name in node.inputs]
            if not any(value is not None and value.dtype == np.int64 and size in value for value in values):
                raise Declined(f"config.json tells heads of {size}, and {scope} has others")

    def _depth(self) -> int:
        prefix = f"{self.base}{self.family.layer}."
        return 1 + max(
            int(scope[len(prefix) :].split(".")[0]) for scope in self.parts.scopes if scope.startswith(prefix)
        )

    def _layer(self, index: int) -> Layer:
        family, scope = self.family, f"{self.base}{self.family.layer}.{index}"
        query, key, value = (self.parts.maybe(f"{scope}.{name}") for name in (family.query, family.key, family.value))
        up = self.parts.maybe(f"{scope}.{family.up}")
        first, second = f"{scope}.{family.first}", f"{scope}.{family.second}"
        return Layer(
            query=query,
            key=key,
            value=value,
            out=self.parts.linear(f"{scope}.{family.out}") if query else self.parts.bias_only(first),
            first=self.parts.norm(first),
            up=up,
            down=self.parts.linear(f"{scope}.{family.down}") if up else self.parts.bias_only(second),
            second=self.parts.norm(second),
        )
