"""The ways to an INT8 file. Each takes the trained model and its fp32 file, and writes one candidate.

All quantise each product with a constant weight, int8 per output channel, and the large embedding tables, int8 per
row (MiniLM, 22.7 M parameters: 91 MB in fp32, 59 MB without the tables, 23 MB with them).

dynamic            onnxruntime measures each activation's range as it runs, over the whole batch: an answer depends on
                   batch mates, so the file is run one text at a time.
static             ranges from calibration texts, cut where answers on those texts stay closest to fp32's.
neural-compressor  ranges and scales by Intel's neural-compressor (see `pt2e`).
qat                those that quantise/qat trained with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from compress.export import calibrate, pt2e, qdq
from compress.export.graph import products
from compress.export.onnx import quiet
from compress.export.parity import compare
from serve.encode import Feeds


@dataclass(frozen=True)
class Source:
    """What a candidate is made from."""

    model: nn.Module
    fp32: Path
    feeds: Sequence[Feeds]  # calibration texts, one each, unpadded
    kind: str
    record: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of quantise/qat, by module


@dataclass(frozen=True)
class Made:
    """How a candidate came about."""

    method: str  # for the manifest
    batch: int | None  # texts a run at most, where that is not a matter of speed
    notes: dict[str, object]


def dynamic(source: Source, target: Path) -> Made:
    with quiet():
        quantize_dynamic(
            source.fp32,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    qdq.quantise_tables(target)
    return Made("dynamic", 1, {})


def static(source: Source, target: Path) -> Made:
    histograms = calibrate.observe(source.fp32, source.feeds)
    reference = _run(source.fp32, source.feeds)
    errors = {}
    for method in calibrate.METHODS:
        path = target.with_suffix(f".{method}.onnx")
        try:
            qdq.write(source.fp32, path, calibrate.grids(histograms, method))
            errors[method] = compare(reference, _run(path, source.feeds), source.kind).mean
            if errors[method] == min(errors.values()):
                path.replace(target)
        finally:
            path.unlink(missing_ok=True)
    best = min(errors, key=lambda method: errors[method])
    rounded = {method: round(error, 6) for method, error in errors.items()}
    return Made("static", None, {"calibration": best, "calibration_errors": rounded})


def neural_compressor(source: Source, target: Path) -> Made:
    grids, weight_scales, versions = pt2e.scales(source.model, source.fp32, source.feeds)
    qdq.write(source.fp32, target, grids, weight_scales)
    return Made("pt2e", None, versions)


def qat(source: Source, target: Path) -> Made:
    """The integers and scales that the model was trained with, none of them derived again."""
    grids: dict[str, qdq.Grid] = {}
    weight_scales: dict[str, np.ndarray] = {}
    for product in products(onnx.load(source.fp32).graph):
        module = product.node.name.removeprefix("/model/").rpartition("/")[0].replace("/", ".")
        if module not in source.record:
            raise ValueError(f"export: no ranges were recorded for {module}; train it with quantise/qat, or drop qat")
        found = source.record[module]
        if not found["seen"]:
            raise ValueError(f"export: quantise/qat never saw an input of {module}; train for at least one update")
        grids[product.activation] = qdq.Grid(found["scale"], found["zero"])
        weight_scales[product.node.name] = found["weight_scale"].numpy()
    qdq.write(source.fp32, target, grids, weight_scales)
    return Made("qat", None, {})


CANDIDATES: dict[str, Callable[[Source, Path], Made]] = {
    "dynamic": dynamic,
    "neural-compressor": neural_compressor,
    "qat": qat,
    "static": static,
}


def _run(path: Path, feeds: Sequence[Feeds]) -> np.ndarray:
    session = calibrate.ort_session(path)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])
