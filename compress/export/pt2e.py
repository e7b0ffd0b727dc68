"""neural-compressor's PT2E static quantisation, brought over to ONNX.

neural-compressor 3.10 captures the model with `torch.export`, observes it on calibration texts and writes scales and
zero points into the captured graph. These numbers are read out here and written as QDQ by `compress.export.qdq`.
Exporting its graph itself also reaches integer kernels, but with float weights (92 MB where ours takes 23) and with
the pooler and classifier in float: docs/decisions/0003-neural-compressor-pt2e.md.
"""

import importlib.metadata
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from compress.export.graph import name_nodes, products
from compress.export.onnx import example, positional, quiet
from compress.export.qdq import Grid
from serve.encode import Feeds

NEEDS = ("neural-compressor", "torchao", "py-cpuinfo", "prettytable")


def scales(
    model: nn.Module, fp32: Path, feeds: Sequence[Feeds]
) -> tuple[dict[str, Grid], dict[str, np.ndarray], dict[str, object]]:
    """Grids by activation and weight scales [O] by node of the fp32 file, and the versions that made them.

    Raises ValueError where neural-compressor leaves a product of the file alone.
    """
    with quiet(), torch.no_grad():
        captured = _quantise(model, feeds)
    linears: dict[bytes, deque[tuple[Grid, np.ndarray]]] = defaultdict(deque)
    for weight, grid, weight_scales in _linears(captured):
        linears[weight.tobytes()].append((grid, weight_scales))
    graph = onnx.load(fp32).graph
    name_nodes(graph)
    grids: dict[str, Grid] = {}
    found: dict[str, np.ndarray] = {}
    for product in products(graph):  # weights shared by several products come in the same order in both graphs
        weight = product.weight if product.axis == 0 else product.weight.T
        same = linears[np.ascontiguousarray(weight).tobytes()]
        if not same:
            raise ValueError(f"neural-compressor did not quantise {product.node.name}; leave it out of export.int8")
        grid, found[product.node.name] = same.popleft()
        grids.setdefault(product.activation, grid)
    versions: dict[str, object] = {name: importlib.metadata.version(name) for name in NEEDS[:2]}
    return grids, found, versions


def _quantise(model: nn.Module, feeds: Sequence[Feeds]) -> torch.fx.GraphModule:
    """The captured model with quantise and dequantise nodes, calibrated on `feeds`."""
    try:
        from neural_compressor.torch.export import export
        from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare
    except ImportError as error:
        raise ValueError(
            f"export.int8 has neural-compressor, which needs {error.name}; "
            "run: pip install 'bantam[neural-compressor]', or leave it out"
        ) from error
    inputs = tuple(feeds[0])
    traced = example(inputs)
    longest = max(feed["input_ids"].shape[1] for feed in feeds)
    batch = torch.export.Dim("batch", max=64)
    length = torch.export.Dim("length", max=max(longest, traced[0].shape[1]))
    shapes = (tuple({0: batch, 1: length} for _ in inputs),)
    captured = export(positional(model, inputs), traced, dynamic_shapes=shapes)
    prepared = prepare(captured, INT8StaticQuantConfig())
    for feed in feeds:
        prepared(*(torch.from_numpy(feed[name]) for name in inputs))
    return convert(prepared)


def _linears(captured: torch.fx.GraphModule) -> list[tuple[np.ndarray, Grid, np.ndarray]]:
    """Weight [O, I], grid of the input and scales [O] of each quantised linear, in the order of the graph."""
    found = []
    for node in captured.graph.nodes:
        if node.target is not torch.ops.aten.linear.default:
            continue
        activation, weight = (_quantised(argument) for argument in node.args[:2])
        if activation is None or weight is None:
            continue
        grid = Grid(_value(captured, activation.args[1]), int(_value(captured, activation.args[2])))
        weight_scales = _tensor(captured, weight.args[1])
        found.append((_tensor(captured, weight.args[0]), grid, weight_scales))
    return found


def _quantised(node: torch.fx.Node) -> torch.fx.Node | None:
    """The quantise node behind a dequantise node."""
    behind = node.args[0] if "dequantize" in str(node.target) else None
    return behind if isinstance(behind, torch.fx.Node) and "quantize" in str(behind.target) else None


def _tensor(captured: torch.fx.GraphModule, node: Any) -> np.ndarray:
    value: Any = captured
    for part in node.target.split("."):
        value = getattr(value, part)
    return value.detach().cpu().numpy()


def _value(captured: torch.fx.GraphModule, given: Any) -> float:
    """A number, written into the call or kept as a buffer."""
    return float(_tensor(captured, given)) if isinstance(given, torch.fx.Node) else float(given)
