"""What is gained by sparse INT8, counted in several honest ways.

Zafrir, Larey, Boudoukh, Shen, Wasserblat 2021, "Prune Once for All", https://arxiv.org/abs/2111.05754, counts the
bytes of non-zero INT8 weights of the encoder against those of dense fp32 ones: 90 % of zeros and INT8 are
(1 / 0.1) (32 / 8) = 40. That leaves out where the non-zeros are, and all that is not an encoder weight. Here it
stands beside what a file really takes.
"""

import gzip
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.packing.blocks import smallest
from serve.packing.container import ITEMS, matrix
from serve.packing.onnx_file import Constant, constants

FP32_BITS, INT8_BITS = 32, 8
GZIP = 6  # gzip's own default level
ENCODER_LINES = {  # of a table: what it is, and its key among the encoder's bytes
    "fp32": "fp32",
    "INT8": "int8",
    "INT8 non-zeros alone": "non-zeros",
    "and a bit mask": "bit mask",
    "as stored": "stored",
}
FILE_LINES = {"fp32": "fp32 file", "int8": "INT8 file", "packed": "packed file"}
BLOCK_OF_ENCODER = re.compile(r"[./]layer[./]\d+[./]")  # in the name of a weight, as exporters write it


def ratio(density: float, index_bits: float = 0.0) -> float:
    """Bits of a dense fp32 weight over those of a sparse INT8 one: non-zeros, and an index of so many bits a weight.

    The index is 0 for the paper's nominal ratio, 1 for a bit mask, 1/4 for one of 1x4 blocks (if zeros are blocks),
    16 `density` for a 16-bit position of each non-zero, `entropy(density)` at best if zeros lie anywhere.
    """
    return FP32_BITS / (INT8_BITS * density + index_bits)


def entropy(density: float) -> float:
    """Bits a weight that tell which of random weights are zero (Shannon)."""
    return sum(-p * math.log2(p) for p in (density, 1 - density) if p > 0)


def measure(onnx: Path, container: Path, fp32: Path | None) -> dict[str, Any]:
    """Sizes in bytes and ratios of an INT8 file, of its container, and of the fp32 file where there is one."""
    files = {"fp32": fp32, "int8": onnx, "packed": container}
    sizes = {name: {"bytes": path.stat().st_size, "gzip": gzipped(path)} for name, path in files.items() if path}
    return {"encoder": encoder(onnx), "files": sizes}


def encoder(onnx: Path) -> dict[str, Any]:
    """Of the INT8 weights of the encoder's blocks: zeros, and how many times smaller than dense fp32 they are."""
    file = np.memmap(onnx, np.uint8, "r")
    weights = zeros = stored = 0
    blocks: dict[str, int] = {}
    for one in constants(onnx):
        if not in_encoder(one):
            continue
        value = matrix(_value(file, one))
        form = smallest(value)
        weights += value.size
        zeros += int((value == 0).sum())
        stored += form.size if form else value.nbytes
        name = "{}x{}".format(*form.block) if form else "dense"
        blocks[name] = blocks.get(name, 0) + 1
    if not weights:
        return {}
    density = 1 - zeros / weights
    return {
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights,
        "blocks": blocks,  # matrices by the form of their index, as stored: [inputs, outputs] for a MatMul
        "bytes": {"fp32": 4 * weights, "int8": weights, "non-zeros": weights - zeros, "stored": stored},
        "ratios": {
            "nominal": ratio(density),
            "bit mask": ratio(density, 1),
            "16-bit positions": ratio(density, 16 * density),
            "entropy": ratio(density, entropy(density)),
            "stored": 4 * weights / stored,
        },
    }


def lines(measured: dict[str, Any]) -> list[tuple[str, int, int | None, float | None]]:
    """What `measure` found as lines of a table: what it is, bytes, gzipped bytes, and how many times below fp32."""
    found: list[tuple[str, int, int | None, float | None]] = []
    if inside := measured["encoder"]:
        sizes = {**inside["bytes"], "bit mask": inside["bytes"]["non-zeros"] + -(-inside["weights"] // 8)}
        for what, key in ENCODER_LINES.items():
            found.append((f"encoder weights, {what}", sizes[key], None, sizes["fp32"] / sizes[key]))
    whole = measured["files"].get("fp32", {}).get("bytes")
    for name, sizes in measured["files"].items():
        found.append((FILE_LINES[name], sizes["bytes"], sizes["gzip"], whole / sizes["bytes"] if whole else None))
    return found


def in_encoder(one: Constant) -> bool:
    """Whether it is the INT8 weight of a linear layer in one of the encoder's blocks."""
    return one.dtype in ("int8", "uint8") and len(one.shape) == 2 and bool(BLOCK_OF_ENCODER.search(one.name))


def gzipped(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), GZIP))


def _value(file: NDArray[np.uint8], one: Constant) -> NDArray[Any]:
    return np.ndarray(one.shape, ITEMS[one.dtype], file[one.start : one.start + one.size].tobytes())
