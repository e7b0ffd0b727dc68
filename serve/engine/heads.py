"""The head of an ONNX file: which tokens it reads, and what it makes of them.

Classifiers are known by the modules of their family. Whatever else a file gives is followed from its output back to the
last LayerNorm: one linear layer at most, then unit length, the masked mean or the first token, or nothing of these.
"""

from dataclasses import dataclass

from serve.engine.graph import Graph, Node
from serve.engine.network import Declined, Linear
from serve.engine.parts import Parts

TAGGER = "classifier"  # the module of a family's token classifier
BYTES = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Identity")
# Between a mask and the number that it counts to, or between a length and what it divides: only shapes change, and what
# would be 0.
SHAPES = ("Cast", "Clip", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Head:
    reads: str  # a key of READS
    unit: bool
    linears: list[Linear]
    tensor: str  # what it gives


def read_head(parts: Parts, classifier: tuple[str, ...], hidden: str) -> Head:
    """The head of what the file gives first. `classifier` are the modules of the family's, `hidden` is what the encoder
    gives. Raises Declined where it is none that the engine knows.
    """
    graph, tensor = parts.graph, parts.graph.outputs[0]
    beside = "".join(f"{name}." for name in parts.base.split(".")[:-2])  # what names of modules beside it begin with
    linears = [one for one in (parts.maybe(beside + scope) for scope in classifier) if one]
    if len(linears) == len(classifier):
        return Head("first", False, linears, tensor)
    product = parts.one(beside + TAGGER, "MatMul", "Gemm", "MatMulInteger")
    if product is None:
        reads, unit = _followed(graph, tensor, hidden)
        return Head(reads, unit, [], tensor)
    reads, unit = _followed(graph, product.inputs[0], hidden)
    if unit:
        raise Declined("its classifier reads what was made 1 long")
    return Head(reads, False, [parts.linear(beside + TAGGER)], tensor)


def _followed(graph: Graph, tensor: str, hidden: str) -> tuple[str, bool]:
    """What of `hidden` a tensor is: which tokens, and whether 1 long."""
    tensor = _behind(graph, tensor, BYTES)
    if tensor == hidden:
        return "all", False
    maker = graph.makers.get(tensor)
    if maker and maker.operator == "Gather" and _behind(graph, maker.inputs[0], BYTES) == hidden:
        at = graph.constants.get(maker.inputs[1])
        if at is not None and at.size == 1 and not at.any():
            return "first", False
    if maker and maker.operator == "Div":
        divisor = graph.makers.get(_behind(graph, maker.inputs[1], SHAPES))
        if divisor and divisor.operator == "ReduceL2" and divisor.inputs[0] == maker.inputs[0]:
            return _pooled(graph, maker.inputs[0], hidden), True
        if divisor and _is_mean(graph, maker.inputs[0], divisor, hidden):
            return "mean", False
    made = maker.operator if maker else "none of its nodes"
    raise Declined(f"what it gives is neither each token, the first, nor their masked mean: {tensor} is by {made}")


def _pooled(graph: Graph, tensor: str, hidden: str) -> str:
    reads, unit = _followed(graph, tensor, hidden)
    if reads == "all" or unit:
        raise Declined("it makes each token 1 long, or does so twice")
    return reads


def _is_mean(graph: Graph, total: str, divisor: Node, hidden: str) -> bool:
    """Whether total / divisor is the sum of `hidden` times the mask, over the mask's."""
    summed = graph.makers.get(_behind(graph, total, ("Identity",)))
    if not summed or summed.operator != "ReduceSum" or divisor.operator != "ReduceSum":
        return False
    product = graph.makers.get(summed.inputs[0])
    if not product or product.operator != "Mul" or not _is_mask(graph, divisor.inputs[0]):
        return False
    one, other = product.inputs
    return (one == hidden and _is_mask(graph, other)) or (other == hidden and _is_mask(graph, one))


def _is_mask(graph: Graph, tensor: str) -> bool:
    return _behind(graph, tensor, SHAPES) == "attention_mask"


def _behind(graph: Graph, tensor: str, operators: tuple[str, ...]) -> str:
    """What a tensor was before these operators."""
    while (maker := graph.makers.get(tensor)) and maker.operator in operators:
        tensor = maker.inputs[0]
    return tensor
