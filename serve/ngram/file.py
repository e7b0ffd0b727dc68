"""The model's file: safetensors whose arrays are mapped, not read, so that workers share them.

All arrays lie at multiples of their own items' size, the rows first and at a multiple of 64 bytes. What is not an array
is in the metadata, with the sha256 of the data.
"""

import hashlib
import json
import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import ArtefactError
from serve.ngram.keys import ORDERS, Keys
from serve.ngram.lookup import FEWEST, Lookup
from serve.ngram.words import ALONE, APOSTROPHE, CODE_POINTS, DROPPED, KIND, LETTER, PAGE, SEPARATOR, Characters

VERSION = 1
ALIGNMENT = 64
WIDEST, STRIP = 1024, 16  # of a row
ACTIVATIONS = ("tanh", "relu")
HEAD_LIMIT = 1 << 20  # bytes
LENGTH = struct.Struct("<Q")

DTYPES = {
    "rows": "I8",
    "keys": "U64",
    "scale": "F32",
    "dense_weight": "F32",
    "dense_bias": "F32",
    "out_weight": "F32",
    "out_bias": "F32",
    "pages": "I32",
    "index": "U16",
    "displacement": "U16",
    "tags": "U8",
}  # in the order of the file
NUMPY = {"I8": "int8", "U8": "uint8", "U16": "<u2", "I32": "<i4", "F32": "<f4", "U64": "<u8"}


@dataclass(frozen=True)
class Model:
    """M slots, D width of a row, H neurons, C labels. Raises ValueError where the parts do not fit together."""

    rows: NDArray[np.int8]  # [M + 1, D]: row M and those of empty slots are zeros
    keys: Keys  # [M]
    scale: NDArray[np.float32]  # [D], of a row's columns
    dense_weight: NDArray[np.float32]  # [H, D], or [H, 4 D] for pairs
    dense_bias: NDArray[np.float32]  # [H]
    out_weight: NDArray[np.float32]  # [C, H]
    out_bias: NDArray[np.float32]  # [C]
    displacement: NDArray[np.uint16]  # [M / 4]
    tags: NDArray[np.uint8]  # [M]
    characters: Characters
    orders: int  # the highest order of an n-gram
    inputs: int  # texts an example
    activation: str
    multipliers: tuple[int, int]

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_shapes(self)
        _check_characters(self.characters)

    @cached_property
    def lookup(self) -> Lookup:
        return Lookup(self.keys, self.displacement, self.multipliers)


def write(path: Path, model: Model) -> None:
    """The file of a model, with its rows as `build` laid the keys."""
    if not np.array_equal(model.tags, model.lookup.tags()):
        raise ValueError("the tags must be those of the keys: take them from Lookup.tags()")
    if model.rows[-1].any() or model.rows[:-1][model.keys == 0].any():
        raise ValueError("the last row and those of empty slots must be zeros")
    arrays = {name: np.ascontiguousarray(array, NUMPY[DTYPES[name]]) for name, array in _arrays(model).items()}
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.data)
    head = _head(model, arrays, digest.hexdigest())
    with path.open("wb") as file:
        file.write(LENGTH.pack(len(head)) + head)
        for array in arrays.values():
            file.write(array.data)


def read(path: Path | str) -> Model:
    """The model in a file, its arrays mapped. Raises ArtefactError where the file is not whole or not such a model."""
    try:
        with Path(path).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(data)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ArtefactError(
            f"{path} is not an n-gram model that can be used: {what}; copy the artefact again"
        ) from None


def _arrays(model: Model) -> dict[str, NDArray[Any]]:
    tables: dict[str, NDArray[Any]] = {"pages": model.characters.pages, "index": model.characters.index}
    return {name: tables[name] if name in tables else getattr(model, name) for name in DTYPES}


def _head(model: Model, arrays: dict[str, NDArray[Any]], sha256: str) -> bytes:
    told = {"version": VERSION, "orders": model.orders, "inputs": model.inputs, "activation": model.activation}
    told |= {"multipliers": model.multipliers, "sha256": sha256}
    head: dict[str, Any] = {"__metadata__": {"format": "np", "bantam": json.dumps(told)}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        head[name] = {"dtype": DTYPES[name], "shape": array.shape, "data_offsets": [start, end]}
    found = json.dumps(head).encode()
    return found + b" " * (-(LENGTH.size + len(found)) % ALIGNMENT)


def _read(data: mmap.mmap) -> Model:
    if len(data) < LENGTH.size or LENGTH.unpack(data[: LENGTH.size])[0] > min(HEAD_LIMIT, len(data) - LENGTH.size):
        raise ValueError("it is too short, or not safetensors")
    start = LENGTH.size + LENGTH.unpack(data[: LENGTH.size])[0]
    head = json.loads(data[LENGTH.size : start])
    told = json.loads(head["__metadata__"]["bantam"])
    if told["version"] != VERSION:
        raise ValueError(f"it has version {told['version']!r}, and this Bantam reads {VERSION}")
    if start % ALIGNMENT:
        raise ValueError(f"its data must start at a multiple of {ALIGNMENT} bytes, got {start}")
    found, end = dict[str, Any](), 0
    for name, dtype in DTYPES.items():
        found[name], end = _array(data, name, dtype, head[name], start, end)
    if start + end != len(data):
        raise ValueError(f"it has {len(data)} bytes, expected {start + end}")
    if hashlib.sha256(memoryview(data)[start:]).hexdigest() != told["sha256"]:
        raise ValueError("its data are not what its sha256 says")
    characters = Characters(index=found.pop("index"), pages=found.pop("pages"))
    first, second = told["multipliers"]
    facts: dict[str, Any] = {name: told[name] for name in ("orders", "inputs", "activation")}
    return Model(**found, **facts, characters=characters, multipliers=(first, second))


def _array(
    data: mmap.mmap, name: str, dtype: str, told: dict[str, Any], start: int, end: int
) -> tuple[NDArray[Any], int]:
    """An array of the header, which must start where the last one ended, and where it ends."""
    shape, offsets = told["shape"], told["data_offsets"]
    whole = isinstance(shape, list) and all(type(side) is int and 0 <= side < 1 << 48 for side in shape)
    if told["dtype"] != dtype or not whole:
        raise ValueError(f"{name} must be of type {dtype}, got {told['dtype']!r} of shape {shape!r}")
    count = 1
    for side in shape:
        count *= side
    size = count * np.dtype(NUMPY[dtype]).itemsize
    if offsets != [end, end + size] or start + end + size > len(data):
        raise ValueError(f"{name} must lie at {[end, end + size]} of the data, got {offsets!r} of {len(data) - start}")
    return np.frombuffer(data, NUMPY[dtype], count, start + end).reshape(shape), end + size


def _check_numbers(model: Model) -> None:
    for name, got, known in (
        ("orders", model.orders, range(1, ORDERS + 1)),
        ("inputs", model.inputs, (1, 2)),
        ("activation", model.activation, ACTIVATIONS),
    ):
        if got not in known or isinstance(got, bool):
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {got!r}")
    for multiplier in model.multipliers:
        if type(multiplier) is not int or not 0 < multiplier < 1 << 64 or multiplier % 2 == 0:
            raise ValueError(f"a multiplier must be odd and of 64 bits, got {multiplier!r}")


def _check_shapes(model: Model) -> None:
    slots, width = len(model.keys), model.rows.shape[-1] if model.rows.ndim else 0
    neurons, labels = model.dense_bias.size, model.out_bias.size
    if slots < FEWEST or slots & (slots - 1):
        raise ValueError(f"slots must be a power of two and {FEWEST} at least, got {slots}")
    if not 0 < width <= WIDEST or width % STRIP:
        raise ValueError(f"a row's width must be a multiple of {STRIP} and {WIDEST} at most, got {width}")
    shapes: dict[str, tuple[int, ...]] = {
        "rows": (slots + 1, width),
        "keys": (slots,),
        "scale": (width,),
        "dense_weight": (neurons, width * (1 if model.inputs == 1 else 4)),
        "dense_bias": (max(neurons, 1),),
        "out_weight": (labels, neurons),
        "out_bias": (max(labels, 1),),
        "displacement": (slots // 4,),
        "tags": (slots,),
        "pages": (len(model.characters.pages), PAGE),
        "index": (CODE_POINTS // PAGE,),
    }
    for name, array in _arrays(model).items():
        dtype = np.dtype(NUMPY[DTYPES[name]])
        if array.shape != shapes[name] or array.dtype != dtype:
            got = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{name} must be {dtype} {list(shapes[name])}, got {got}")
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite numbers")


def _check_characters(table: Characters) -> None:
    """Every character stands for one that stands for itself, so that words are words when they are split once more."""
    if not len(table.pages) or table.index.max() >= len(table.pages):
        raise ValueError(f"the index of characters must name pages below {len(table.pages)}, got {table.index.max()}")
    flat = table.flat()
    kind, stands_for = flat >> KIND, flat & ((1 << KIND) - 1)
    if kind.min() < SEPARATOR or kind.max() > DROPPED or stands_for.max() >= CODE_POINTS:
        raise ValueError("a character must be one of 5 kinds and stand for a code point")
    words = (kind == LETTER) | (kind == ALONE)
    if (flat[stands_for[words]] != flat[words]).any() or stands_for[~words].any():
        raise ValueError("a character must stand for one that stands for itself")
    if kind[ord(" ")] != SEPARATOR or kind[ord("'")] != APOSTROPHE or words[0xD800:0xE000].any():
        raise ValueError("a space must part words, an apostrophe be one, and half of a surrogate pair no letter")
