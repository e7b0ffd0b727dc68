"""Where the large constants lie in an ONNX file, read without the onnx package.

ONNX is protobuf; three messages of it and their field numbers are all that is needed
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding).
"""

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve.errors import ArtefactError

TYPES = {1: "float32", 2: "uint8", 3: "int8"}  # TensorProto.DataType -> numpy; constants of other types are small
LARGE = 1024  # bytes; smaller constants are not worth an entry of their own

# Field numbers
GRAPH = 7  # of ModelProto
INITIALISER = 5  # of GraphProto
DIMS, TYPE, NAME, RAW = 1, 2, 8, 9  # of TensorProto

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]  # number, value (of a varint, else 0), and the bounds of its bytes


@dataclass(frozen=True)
class Constant:
    """An initialiser whose bytes lie in the file from `start`, in C order."""

    name: str
    dtype: str  # of numpy
    shape: tuple[int, ...]
    start: int
    size: int  # bytes


def constants(path: Path) -> list[Constant]:
    """The large constants of the file, in its order. Raises ArtefactError where it is not an ONNX file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graphs = [(start, end) for number, _, start, end in fields(data, 0, len(data)) if number == GRAPH]
            found = [one for start, end in graphs for one in _constants(data, start, end)]
    except (ValueError, IndexError) as error:
        raise ArtefactError(f"{path} is not an ONNX file: {error}") from None
    if not graphs:
        raise ArtefactError(f"{path} is not an ONNX file: it holds no graph")
    return found


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that lies in data[start:end]."""
    at = start
    while at < end:
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        value, size = 0, {FIXED64: 8, FIXED32: 4}.get(wire, 0)
        if wire == VARINT:
            value, at = varint(data, at)
        elif wire == BYTES:
            size, at = varint(data, at)
        elif not size:
            raise ValueError(f"byte {at} starts no protobuf field")
        if at + size > end:
            raise ValueError(f"the field at byte {at} ends beyond its message")
        yield number, value, at, at + size
        at += size


def varint(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where the next field starts."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"the number at byte {at} does not end")


def _constants(data: mmap.mmap, start: int, end: int) -> list[Constant]:
    read = (_constant(data, low, high) for number, _, low, high in fields(data, start, end) if number == INITIALISER)
    return [one for one in read if one is not None]


def _constant(data: mmap.mmap, start: int, end: int) -> Constant | None:
    name, dtype, shape, bounds = "", 0, [], (0, 0)
    for number, value, low, high in fields(data, start, end):
        if number == DIMS and low == high:
            shape.append(value)
        elif number == DIMS:
            while low < high:
                value, low = varint(data, low)
                shape.append(value)
        elif number == TYPE:
            dtype = value
        elif number == NAME:
            name = data[low:high].decode()
        elif number == RAW:
            bounds = low, high
    size = bounds[1] - bounds[0]
    if dtype not in TYPES or size < LARGE or size != math.prod(shape) * np.dtype(TYPES[dtype]).itemsize:
        return None
    return Constant(name, TYPES[dtype], tuple(shape), bounds[0], size)
