"""Tensors of the Open Inference Protocol: texts in, as JSON or as raw bytes behind it, and bytes out.

Of its binary form: tensors follow the JSON in the order of the inputs; an element of BYTES is its length in 4 bytes,
little-endian, and then itself.
"""

from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import BadField, EmptyInput, InputError
from serve.protocols.reading import SHOWN, check_batch, kind, string, whole
from serve.question import Context

SIZE = Struct("<I")


def parted(body: bytes, length: bytes | None) -> tuple[bytes, bytes]:
    """The JSON of a body and the tensors behind it, parted where its header says."""
    if length is None:
        return body, b""
    if not length.isdigit() or len(length) > 18 or int(length) > len(body):
        raise InputError(f"Inference-Header-Content-Length must be at most {len(body)}, the length of the body")
    cut = int(length)
    return body[:cut], body[cut:]


def read(inputs: Any, names: tuple[str, ...], raw: bytes, context: Context) -> dict[str, list[str]]:
    """The texts of each of the inputs `names`; BadField unless these and no others are there."""
    if type(inputs) is not list:
        raise BadField("inputs", f'"inputs" must be a list of tensors, got {kind(inputs)}')
    found: dict[str, list[str]] = {}
    start = 0
    for at, tensor in enumerate(inputs):
        where = f"inputs[{at}]"
        name = string(checked(tensor, where), "name")
        if name not in names or name in found:
            got = "nothing" if name is None else f'"{name[:SHOWN]}"'
            raise BadField("inputs", f'"{where}" must be named one of {list(names)}, each once, got {got}')
        count = _count(tensor, where, context)
        size = whole(parameters(tensor, "parameters"), "binary_data_size")
        if size is None:
            found[name] = _listed(tensor, where, count)
        elif "data" in tensor or not 0 <= size <= len(raw) - start:
            raise BadField("inputs", f'"{where}" must have "data", or "binary_data_size" bytes behind the JSON')
        else:
            found[name] = _unpacked(raw[start : start + size], where, count)
            start += size
    if start != len(raw):
        raise InputError(f"{len(raw) - start} bytes are left behind the last tensor")
    for name in names:
        if name not in found:
            raise BadField("inputs", f'"inputs" lack "{name}"')
    return found


def checked(value: Any, where: str) -> dict[str, Any]:
    """An object of a list."""
    if type(value) is not dict:
        raise BadField(where, f'"{where}" must be an object, got {kind(value)}')
    return value


def parameters(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters of a request or of a tensor, of which there may be none."""
    value = content.get(name)
    return {} if value is None else checked(value, name)


def packed(data: list[str] | NDArray[np.float32]) -> bytes:
    """BYTES or FP32 in binary form."""
    if isinstance(data, list):
        return b"".join(SIZE.pack(len(word)) + word for word in map(str.encode, data))
    return data.astype("<f4", copy=False).tobytes()


def _count(tensor: dict[str, Any], where: str, context: Context) -> int:
    """Elements of a tensor of texts, by its shape."""
    if tensor.get("datatype") != "BYTES":
        raise BadField("inputs", f'"{where}" must have the datatype "BYTES"')
    if "shared_memory_region" in parameters(tensor, "parameters"):
        raise BadField("inputs", f'"{where}" lies in shared memory, which is not read here')
    shape: Any = tensor.get("shape")
    good = type(shape) is list and len(shape) in (1, 2) and all(type(size) is int for size in shape)
    if not good or shape[0] < 0 or shape[1:] not in ([], [1]):
        raise BadField("inputs", f'"{where}" must have the shape [n] or [n, 1]')
    if shape[0] == 0:
        raise EmptyInput(f'"{where}" cannot be empty')
    check_batch(shape[0], context)
    return int(shape[0])


def _listed(tensor: dict[str, Any], where: str, count: int) -> list[str]:
    data: Any = tensor.get("data")
    if type(data) is list and set(map(type, data)) == {list} and all(len(row) == 1 for row in data):
        data = [row[0] for row in data]  # [n, 1] as it is nested
    if type(data) is not list or len(data) != count or any(type(item) is not str for item in data):
        raise BadField("inputs", f'"{where}" must have "data": a list of strings, {count} by its shape')
    return list(data)


def _unpacked(raw: bytes, where: str, count: int) -> list[str]:
    found: list[str] = []
    at = 0
    while at + SIZE.size <= len(raw) and len(found) < count:
        (size,) = SIZE.unpack_from(raw, at)
        at += SIZE.size
        try:
            found.append(raw[at : at + size].decode())
        except UnicodeDecodeError as error:
            raise BadField("inputs", f'"{where}" must hold UTF-8, but its element {len(found)} has {error}') from None
        at += size
    if at != len(raw) or len(found) != count:
        raise BadField("inputs", f'"{where}" must hold {count} elements by its shape, each behind its length')
    return found
