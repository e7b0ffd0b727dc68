"""An ONNX file as a safetensors file, and back, byte for byte.

The ONNX file is a row of segments: bytes that are kept as they are, and large constants. The container holds the
former joined as ":literal", a constant with few zeros under its own name, one with many as NAME:index and NAME:values
(see `blocks`), and in its metadata under "bantam" the list of segments as JSON:

    {"version": 1, "segments": [{"literal": 812}, {"name": ..., "dtype": "int8", "shape": [384, 1536], "block": [1, 4]},
     {"literal": 96}, ...]}                                            "block" is absent where the constant is dense

Putting the pieces in a row needs no knowledge of protobuf, and the sha256 of the manifest proves the result.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from serve.errors import ArtefactError
from serve.packing.blocks import Sparse, dense, smallest
from serve.packing.onnx_file import Constant, constants

VERSION = 1
ITEMS = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8}


class Segment(BaseModel):
    """Bytes that were kept as they are, or a constant."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    literal: int | None = Field(None, ge=0)  # bytes
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    block: tuple[int, int] | None = None


def write(onnx: Path, target: Path) -> None:
    """The container of an ONNX file."""
    file = np.memmap(onnx, np.uint8, "r")
    segments: list[Segment] = []
    literals: list[NDArray[np.uint8]] = []
    tensors: dict[str, NDArray[Any]] = {}
    at = 0
    for one in sorted(constants(onnx), key=lambda one: one.start):
        literals.append(file[at : one.start])
        at = one.start + one.size
        value = np.ndarray(one.shape, ITEMS[one.dtype], file[one.start : at].tobytes())
        form = smallest(matrix(value))
        tensors |= {one.name: value} if form is None else {f"{one.name}:index": form.index}
        tensors |= {f"{one.name}:values": form.values} if form else {}
        segments += [Segment(literal=len(literals[-1])), _segment(one, form)]
    literals.append(file[at:])
    segments.append(Segment(literal=len(literals[-1])))
    described = {"version": VERSION, "segments": [one.model_dump(exclude_defaults=True) for one in segments]}
    tensors[":literal"] = np.concatenate(literals)
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    target.write_bytes(save(tensors, metadata={"bantam": json.dumps(described, separators=(",", ":"))}))


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of the ONNX file, segment by segment. Raises ArtefactError where the container is not one of ours."""
    try:
        with safe_open(path, framework="numpy") as file:
            literal, at = file.get_tensor(":literal"), 0
            for segment in _segments(file.metadata() or {}):
                if segment.literal is None:
                    yield _constant(file, segment).tobytes()
                    continue
                if at + segment.literal > len(literal):
                    raise ValueError("its segments are longer than its literal bytes")
                yield literal[at : at + segment.literal].tobytes()
                at += segment.literal
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged: {' '.join(str(error).split())[:200]}; copy it again") from None


def matrix(value: NDArray[Any]) -> NDArray[Any]:
    """[R, C] of a constant of any shape."""
    return value.reshape(-1, value.shape[-1] if value.ndim else 1)


def _segment(one: Constant, form: Sparse | None) -> Segment:
    return Segment(name=one.name, dtype=one.dtype, shape=one.shape, block=form.block if form else None)


def _segments(metadata: dict[str, str]) -> list[Segment]:
    if "bantam" not in metadata:
        raise ValueError("its metadata holds no list of segments")
    described = json.loads(metadata["bantam"])
    if described["version"] != VERSION:
        raise ValueError(f"its version is {described['version']}, this Bantam reads {VERSION}")
    try:
        return [Segment.model_validate(one) for one in described["segments"]]
    except ValidationError as error:
        raise ValueError(f"its list of segments has {error.error_count()} faults") from None


def _constant(file: Any, segment: Segment) -> NDArray[Any]:
    if segment.block is None:
        value: NDArray[Any] = file.get_tensor(segment.name)
    else:
        form = Sparse(
            segment.block, file.get_tensor(f"{segment.name}:index"), file.get_tensor(f"{segment.name}:values")
        )
        rows = int(np.prod(segment.shape[:-1], dtype=np.int64))
        value = dense(form, (rows, segment.shape[-1])).reshape(segment.shape)
    if value.shape != segment.shape or value.dtype != np.dtype(ITEMS[segment.dtype]):
        raise ValueError(f"{segment.name} is {value.dtype} {value.shape}, not {segment.dtype} {segment.shape}")
    return value
