"""Activation ranges for static quantisation: run real texts, count, choose where to cut.

onnxruntime has calibrators of its own; its percentile and entropy ones need every text to have the same length
(1.31), and texts padded to one would count the padding too. So the texts are run one by one here.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from compress.export.graph import products
from compress.export.qdq import Grid
from serve.encode import Feeds

BINS = 4096
METHODS = ("minmax", "p99.999", "p99.99", "mse")


@dataclass
class Histogram:
    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray | None = None  # [BINS] from low to high

    def widen(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def add(self, values: np.ndarray) -> None:
        counts, _ = np.histogram(values, BINS, (self.low, self.high))
        self.counts = counts if self.counts is None else self.counts + counts


def observe(fp32: Path, feeds: Sequence[Feeds]) -> dict[str, Histogram]:
    """The values of each activation that a product of the file takes in, over `feeds` (unpadded, one text each)."""
    model = onnx.load(fp32)
    names = list(dict.fromkeys(product.activation for product in products(model.graph)))
    known = {value.name for value in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    found = {name: Histogram() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "observed.onnx")
        onnx.save(model, path)
        session = ort_session(path)
        for visit in (Histogram.widen, Histogram.add):
            for feed in feeds:
                for histogram, values in zip(found.values(), session.run(names, feed), strict=True):
                    visit(histogram, values)
    return found


def grids(histograms: Mapping[str, Histogram], method: str) -> dict[str, Grid]:
    """One grid an activation, by one of METHODS."""
    return {name: _grid(histogram, method) for name, histogram in histograms.items()}


def ort_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _grid(histogram: Histogram, method: str) -> Grid:
    assert histogram.counts is not None
    if method == "minmax":
        return Grid.over(histogram.low, histogram.high)
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    if method == "mse":
        return _least_squares((edges[1:] + edges[:-1]) / 2, histogram)
    share = float(method.removeprefix("p")) / 100
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    low = edges[min(np.searchsorted(below, 1 - share), BINS)]
    high = edges[min(np.searchsorted(below, share) + 1, BINS)]
    return Grid.over(low, high)


def _least_squares(values: np.ndarray, histogram: Histogram) -> Grid:
    """The cut on either side, in steps of 1/64, with the least squared error of all values, clipped ones included."""

    def error(low: float, high: float) -> float:
        grid = Grid.over(low, high)
        integers = np.clip(np.rint(values / grid.scale) + grid.zero, 0, 255)
        return float(((integers - grid.zero) * grid.scale - values) ** 2 @ histogram.counts)

    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    steps = np.arange(64, 3, -1) / 64
    bottom, top = low, high
    for _ in range(3):  # one side at a time; three rounds settle
        bottom = low * min(steps, key=lambda step: error(low * step, top))
        top = high * min(steps, key=lambda step: error(bottom, high * step))
    return Grid.over(bottom, top)
