"""The compiled engine through ctypes, which lets go of the interpreter's lock while C runs."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import local

import numpy as np
from numpy.typing import NDArray

from serve.engine.build import LIBRARY
from serve.engine.network import READS, Declined

ABI = 3
PATH = "BANTAM_ENGINE_PATH"  # of the environment: the path to take, for tests and for doubts
FORMATS = ("best", "dense", "16x4", "4x1", "4x4")
TIMES = ("embeddings", "products", "attention", "activation", "norms", "rest")
SLICE = 8192  # tokens whose ids are put in a row for a call of C, which cuts them into passes
HEAD = 0xFFFFFFFF  # as a part
WRONG = {1: "there is no memory", 2: "a text is empty or too long", 3: "a word piece is not in the vocabulary",
         4: "a token type is unknown"}  # fmt: skip

Floats = NDArray[np.float32]
P, U = ctypes.c_void_p, ctypes.c_uint32


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL:
    """The functions of source/engine.c. Raises Declined where there are none that fit."""
    if not path.is_file():
        raise Declined("it was not built: there was no C compiler at installation; run: python -m serve.engine.build")
    try:
        found = ctypes.CDLL(str(path))
        if found.bantam_abi() != ABI:
            raise Declined("it was built from other sources; run: python -m serve.engine.build")
    except (OSError, AttributeError) as error:
        raise Declined(f"it cannot be loaded: {error}") from None
    found.bantam_path.restype = found.bantam_open.restype = ctypes.c_char_p
    found.bantam_path.argtypes = [U, ctypes.POINTER(U)]
    found.bantam_open.argtypes = [P, ctypes.c_size_t, ctypes.POINTER(P), P]
    found.bantam_workspace.restype = P
    found.bantam_workspace.argtypes = [P, U]
    found.bantam_close.argtypes = found.bantam_free.argtypes = [P]
    found.bantam_close.restype = found.bantam_free.restype = found.bantam_times.restype = None
    found.bantam_times.argtypes = [P, P]
    found.bantam_run.argtypes = [P, U, P, P, P, P, U, P]
    found.bantam_part.argtypes = [P, U, P, U, P, P, ctypes.c_int32, P, P]
    found.bantam_product.argtypes = [P, U, P, U, U, ctypes.c_int, U, P, P, U]
    found.bantam_apply.argtypes = [U, ctypes.c_int, U, P, P]
    found.bantam_apply.restype = None
    found.bantam_peak.argtypes = [U, U, P]
    found.bantam_peak.restype = U
    return found


def paths() -> dict[str, bool]:
    """The code paths in the library, best first, and whether this processor can take each."""
    found: dict[str, bool] = {}
    possible = U()
    while name := library().bantam_path(len(found), ctypes.byref(possible)):
        found[name.decode()] = bool(possible.value)
    return found


def choose(wanted: str | None = None) -> str:
    """The path that will be taken: `wanted`, the environment's, or the best. Declined where it cannot be."""
    there = paths()
    wanted = wanted or os.environ.get(PATH) or next(name for name, possible in there.items() if possible)
    if not there.get(wanted):
        could = ", ".join(name for name, possible in there.items() if possible)
        raise Declined(f"this processor has no path {wanted!r}; it has {could}")
    return wanted


class Compiled:
    """A model file, opened. `run` may be called from several threads at once; each has a workspace of its own."""

    def __init__(self, data: NDArray[np.uint8], *, path: str | None = None, timed: bool = False) -> None:
        self._library = library()
        self.path, self.timed = choose(path), timed
        self._index = list(paths()).index(self.path)
        self.data = data  # kept: the model points into it
        self._model, shape = P(), np.zeros(6, np.uint32)
        refusal = self._library.bantam_open(data.ctypes.data, data.nbytes, ctypes.byref(self._model), shape.ctypes.data)
        if refusal:
            self._model = P()
            raise Declined(f"its model file is refused: {refusal.decode()}")
        self.vocabulary, self.longest, self.types, self.outputs, reads, self.width = (int(one) for one in shape)
        self.each_token = reads == READS["all"]
        self._mine = local()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.bantam_close(self._model)

    def run(
        self,
        ids: Sequence[NDArray[np.integer]],
        types: Sequence[NDArray[np.integer]] | None = None,
        *,
        out: Floats | None = None,
    ) -> Floats:
        """Answers to word pieces, one row of them a text and no padding: [texts, outputs], or where `each_token`
        [tokens of all texts, outputs]. They are written to `out` where it is given. Beyond them and a workspace a
        thread, this takes memory for the ids of SLICE tokens, however many texts there are.
        """
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        out = self.room(lengths) if out is None else out
        at = 0
        for low, high in _slices(lengths):
            some, kinds = ids[low:high], None if types is None else types[low:high]
            rows = self.rows(lengths[low:high])
            self._flat(_joined(some), None if kinds is None else _joined(kinds), lengths[low:high], out[at : at + rows])
            at += rows
        return out

    def rows(self, lengths: NDArray[np.int32]) -> int:
        """How many answers there are to texts of these lengths."""
        return int(lengths.sum()) if self.each_token else len(lengths)

    def room(self, lengths: NDArray[np.int32]) -> Floats:
        """An array for them."""
        return np.empty((self.rows(lengths), self.outputs), np.float32)

    def _flat(
        self, ids: NDArray[np.int32], types: NDArray[np.int32] | None, lengths: NDArray[np.int32], out: Floats
    ) -> None:
        """The same with the texts' word pieces in a row."""
        assert len(ids) == lengths.sum(), (len(ids), lengths)
        assert out.shape == (self.rows(lengths), self.outputs) and out.dtype == np.float32 and out.flags.c_contiguous
        wrong = self._library.bantam_run(
            self._model,
            self._index,
            self._workspace(),
            ids.ctypes.data,
            None if types is None else types.ctypes.data,
            lengths.ctypes.data,
            len(lengths),
            out.ctypes.data,
        )
        if wrong:
            raise ValueError(f"{WRONG[wrong]}: at most {self.longest} pieces below {self.vocabulary}")

    def part(self, index: int, x: Floats, ids: NDArray[np.integer], types: NDArray[np.integer] | None = None) -> Floats:
        """A part of the network alone, for one text: 0 the embeddings of ids, 1.. a layer of x [tokens, width], HEAD.

        Returns the new x, of the head the answers [1 or tokens, outputs].
        """
        ids, x = _joined([ids]), np.array(x, np.float32, order="C")
        types = None if types is None else _joined([types])
        assert x.shape == (len(ids), self.width), (x.shape, len(ids), self.width)
        out = np.empty((len(ids) if self.each_token else 1, self.outputs), np.float32)
        wrong = self._library.bantam_part(
            self._model,
            self._index,
            self._workspace(),
            index,
            ids.ctypes.data,
            None if types is None else types.ctypes.data,
            len(ids),
            x.ctypes.data,
            out.ctypes.data,
        )
        if wrong:
            raise ValueError(f"{WRONG[wrong]}: at most {self.longest} pieces below {self.vocabulary}")
        return out if index == HEAD else x

    def times(self) -> dict[str, int]:
        """Clock ticks of this thread since the last call, by what they went to; zeros unless `timed`."""
        ticks = np.zeros(len(TIMES), np.uint64)
        self._library.bantam_times(self._workspace(), ticks.ctypes.data)
        return dict(zip(TIMES, ticks.tolist(), strict=True))

    def product(
        self, layer: int, which: int, x: NDArray[np.uint8], outputs: int, *, format: str = "best", repeat: int = 1
    ) -> NDArray[np.int32] | None:
        """x [M, K] times matrix 0 qkv, 1 out, 2 up or 3 down of a layer; None where it is not stored in that format."""
        sums = np.zeros((len(x), outputs), np.int32)
        wrong = self._library.bantam_product(
            self._model,
            self._index,
            self._workspace(),
            layer,
            which,
            FORMATS.index(format),
            len(x),
            np.ascontiguousarray(x).ctypes.data,
            sums.ctypes.data,
            repeat,
        )
        return None if wrong else sums

    def _workspace(self) -> int:
        found: _Workspace | None = getattr(self._mine, "workspace", None)
        if found is None:
            found = self._mine.workspace = _Workspace(self._library, self._model, self.timed)
        return found.address


class _Workspace:
    """Freed when its thread ends."""

    def __init__(self, functions: ctypes.CDLL, model: ctypes.c_void_p, timed: bool) -> None:
        self._functions = functions
        self.address: int = functions.bantam_workspace(model, int(timed))
        if not self.address:
            raise MemoryError("no memory for the engine's buffers")

    def __del__(self) -> None:
        self._functions.bantam_free(self.address)


def apply(what: int, x: Floats, *, path: str) -> Floats:
    """An activation (ACTIVATIONS in source/engine.h; 5: 2^x) of x, whose size is a multiple of 16; for tests."""
    assert x.size % 16 == 0 and x.dtype == np.float32
    y = np.empty_like(x)
    library().bantam_apply(list(paths()).index(path), what, x.size, x.ctypes.data, y.ctypes.data)
    return y


def multiply(rounds: int, *, path: str) -> int:
    """Do nothing but the path's products of integers, from registers, and return how many; 0 where it has no such."""
    total = np.ones(1, np.int32)
    return int(library().bantam_peak(list(paths()).index(path), rounds, total.ctypes.data)) * rounds


def _slices(lengths: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Texts from .. to that have at most SLICE tokens together, or are one."""
    ends, low = np.cumsum(lengths), 0
    while low < len(lengths):
        before = ends[low - 1] if low else 0
        high = max(int(np.searchsorted(ends, before + SLICE, "right")), low + 1)
        yield low, high
        low = high


def _joined(rows: Sequence[NDArray[np.integer]]) -> NDArray[np.int32]:
    joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
    return np.ascontiguousarray(joined, np.int32)
