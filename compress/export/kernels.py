"""What onnxruntime really runs: products in integers, and products that fell back to float without a word."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime as ort

# operator -> position of its second factor
INTEGER = {
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulInteger16": 1,
    "MatMulIntegerToFloat": 1,
    "QAttention": 1,
    "QGemm": 3,
    "QLinearMatMul": 3,
}
FLOAT = {
    "Attention": 1,
    "FusedGemm": 1,
    "FusedMatMul": 1,
    "FusedMatMulActivation": 1,
    "Gemm": 1,
    "GemmFastGelu": 1,
    "MatMul": 1,
    "MatMulFpQ4": 1,
    "MatMulNBits": 1,  # weight-only: the product itself is float
    "TransposeMatMul": 1,
}
# A weight behind these is a weight still: it is expanded to float at each call.
PASSES = {"Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class Kernels(NamedTuple):
    integer: int  # products with constant weights
    float: int
    attention: int  # products of two activations, which stay float by choice


def kernels(path: Path | str) -> Kernels:
    """Matrix products in the graph that onnxruntime makes of the file on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder, "optimised.onnx")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimised).graph
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if node.op_type == "Constant" or (node.op_type in PASSES and node.input[0] in constants):
            constants.update(node.output)
    integer = floating = attention = 0
    for node in graph.node:
        position = (INTEGER | FLOAT).get(node.op_type)
        if position is None:
            continue
        if node.input[position] not in constants and node.input[0] not in constants:
            attention += 1
        elif node.op_type in INTEGER:
            integer += 1
        else:
            floating += 1
    return Kernels(integer, floating, attention)


def count_kernels(path: Path | str) -> tuple[int, int]:
    """Products with constant weights that run in integers, and those that run in float."""
    found = kernels(path)
    return found.integer, found.float
