"""The n-gram student in C through ctypes: from texts to logits in one call, with the bits that `plain` has."""

import os
from collections.abc import Callable, Sequence
from ctypes import CDLL, POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from itertools import chain
from threading import local
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from serve.encode import Text, check_texts
from serve.engine.library import PATH, library
from serve.engine.network import Declined
from serve.errors import InputError, TooLarge
from serve.ngram.file import ACTIVATIONS, Model
from serve.ngram.keys import Ends, Keys
from serve.ngram.lookup import Slots
from serve.ngram.plain import Answers, flattened
from serve.ngram.words import Characters

ABI = 1
MAX_WORDS = 65_536  # of a text
TOGETHER = 1024  # texts in a call of C, so that few others are spelt anew where one is not ASCII
BYTES = 1 << 22  # of texts whose keys or slots are asked for in a call of C, unless one alone has more
ASCII, ANY = 0, 0xFF  # the byte between texts: one that they do not hold, and one that UTF-8 does not
TIMES = ("split", "lookup", "rows", "layers")
LIKE = {"amx": "avx512", "avx512bf16": "avx512", "avxvnni": "avx2"}  # paths of the engine that are one here
NO_MEMORY, TOO_LONG = 1, 2


@cache
def functions() -> CDLL:
    """The functions of engine/source/ngram.c. Raises Declined where there are none that fit."""
    found = library()
    try:
        fits = found.bantam_ngram_abi() == ABI
        found.bantam_ngram_path.argtypes, found.bantam_ngram_path.restype = [c_uint32, POINTER(c_uint32)], c_char_p
        found.bantam_ngram_open.argtypes, found.bantam_ngram_open.restype = [c_void_p, POINTER(c_void_p)], c_char_p
        found.bantam_ngram_workspace.argtypes = [c_void_p, c_uint32]
        found.bantam_ngram_workspace.restype = c_void_p
        found.bantam_ngram_close.argtypes = found.bantam_ngram_free.argtypes = [c_void_p]
        found.bantam_ngram_times.argtypes = [c_void_p, c_void_p]
        for function in (found.bantam_ngram_close, found.bantam_ngram_free, found.bantam_ngram_times):
            function.restype = None
        data: list[Any] = [c_char_p, c_size_t, c_int, c_uint64]  # with the byte between texts and how many there are
        found.bantam_ngram_run.argtypes = [c_void_p, c_uint32, c_void_p, *data, c_void_p, c_void_p, c_void_p]
        found.bantam_ngram_slots.argtypes = [c_void_p, c_uint32, c_void_p, *data, c_void_p, c_void_p]
        words = [c_void_p, c_void_p, c_uint64, c_uint32, c_void_p, *data, c_uint64, c_void_p, c_void_p]
        found.bantam_ngram_words.argtypes = words
    except AttributeError:
        fits = False
    if not fits:
        raise Declined("the library was built from other sources; run: python -m serve.engine.build")
    return found


def paths() -> dict[str, bool]:
    """The code paths in the library, best first, and whether this processor can take each."""
    found: dict[str, bool] = {}
    possible = c_uint32()
    while name := functions().bantam_ngram_path(len(found), byref(possible)):
        found[name.decode()] = bool(possible.value)
    return found


def choose(wanted: str | None = None) -> int:
    """The index of `wanted`, of the path that the environment names, or of the best. Declined where it cannot be."""
    there = paths()
    could = [name for name, possible in there.items() if possible]
    wanted = wanted or os.environ.get(PATH) or could[0]
    wanted = LIKE.get(wanted, wanted)
    if wanted not in could:
        raise Declined(f"this processor has no path {wanted!r}; it has {', '.join(could)}")
    return list(there).index(wanted)


class Native:
    """A model's answers. May be called from several threads at once; each has a workspace of its own."""

    def __init__(
        self, model: Model, *, max_words: int = MAX_WORDS, path: str | None = None, timed: bool = False
    ) -> None:
        self._functions = functions()
        self._index, self._timed = choose(path), timed
        self.path = list(paths())[self._index]
        self.model, self.max_words = model, max_words
        self._arrays = _arrays(model)  # kept, as C points into them
        self._address, self._mine = c_void_p(), local()
        given = np.array([one.ctypes.data for one in self._arrays] + _numbers(model, max_words), np.uint64)
        refusal = self._functions.bantam_ngram_open(given.ctypes.data, byref(self._address))
        if refusal:
            raise Declined(f"its model is refused: {refusal.decode()}")
        self._labels = len(model.out_bias)

    def __del__(self) -> None:
        if getattr(self, "_address", None):
            self._functions.bantam_ngram_close(self._address)

    def texts(self, texts: Sequence[Text]) -> Answers:
        """Logits [N, labels], words of each text that were read, and whether it had more."""
        if len(texts) <= TOGETHER:
            return self._together(texts)
        parts = [self._together(texts[at : at + TOGETHER]) for at in range(0, len(texts), TOGETHER)]
        logits, words, truncated = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, words, truncated

    def _together(self, texts: Sequence[Text]) -> Answers:
        data, between = joined(cast(Sequence[str], texts) if self.model.inputs == 1 else _pairs(texts))
        room, count = self._workspace(), len(texts)
        given = self._address, self._index, room.address, data, len(data), between, count
        _raise(self._functions.bantam_ngram_run(*given, *room.addresses))
        return room.logits[:count].copy(), room.words[:count].copy(), room.truncated[:count].copy()

    def word_keys(self, texts: Sequence[str]) -> tuple[Keys, Ends]:
        """The keys of the words that are read of each text, and where each text's end."""
        return word_keys(texts, self.model.characters, max_words=self.max_words, path=self.path)

    def slots(self, texts: Sequence[str]) -> tuple[Slots, Ends]:
        """The rows of the kept n-grams of each text, and where each text's end."""

        def call(data: bytes, between: int, count: int, ends: int) -> NDArray[Any]:
            found = np.empty(self.model.orders * (len(data) + 1), np.int64)
            given = self._address, self._index, self._workspace().address, data, len(data), between, count
            _raise(self._functions.bantam_ngram_slots(*given, found.ctypes.data, ends))
            return found

        return _flat(texts, call, np.int64)

    def times(self) -> dict[str, int]:
        """Clock ticks of this thread since the last call, by what they went to; zeros unless `timed`."""
        ticks = np.zeros(len(TIMES), np.uint64)
        self._functions.bantam_ngram_times(self._workspace().address, ticks.ctypes.data)
        return dict(zip(TIMES, ticks.tolist(), strict=True))

    def _workspace(self) -> "_Workspace":
        found: _Workspace | None = getattr(self._mine, "workspace", None)
        if found is None:
            found = self._mine.workspace = _Workspace(self._address, timed=self._timed, labels=self._labels)
        return found


def word_keys(
    texts: Sequence[str], table: Characters, *, max_words: int | None = None, path: str | None = None
) -> tuple[Keys, Ends]:
    """`keys.word_keys` in C, of each text's first `max_words` words. Raises Declined where it was not built."""
    index, workspace = choose(path), _without_model()
    pages = np.ascontiguousarray(table.pages, np.int32)
    numbers = np.ascontiguousarray(table.index, np.uint16)
    characters = numbers.ctypes.data, pages.ctypes.data, len(pages)

    def call(data: bytes, between: int, count: int, ends: int) -> NDArray[Any]:
        found = np.empty(len(data) + 1, np.uint64)
        most = len(data) + 1 if max_words is None else max_words
        given = index, workspace.address, data, len(data), between, count, most
        _raise(functions().bantam_ngram_words(*characters, *given, found.ctypes.data, ends))
        return found

    return _flat(texts, call, np.uint64)


def joined(texts: Sequence[str]) -> tuple[bytes, int]:
    """The texts one behind the other, and the byte between them. Raises InputError where one is no text."""
    try:
        together = "\0".join(texts)
        if together.isascii() and together.count("\0") == len(texts) - 1:
            return together.encode(), ASCII
        return b"\xff".join([text.encode() for text in texts]), ANY
    except (TypeError, UnicodeEncodeError):
        check_texts(texts)
        flattened(texts, 1)
        raise


class _Workspace:
    """A thread's buffers, and what a call's answers are written into. Freed when the thread ends."""

    def __init__(self, model: c_void_p | None = None, *, timed: bool = False, labels: int = 0) -> None:
        self._functions = functions()
        self.logits, self.words = np.empty((TOGETHER, labels), np.float32), np.empty(TOGETHER, np.int64)
        self.truncated = np.empty(TOGETHER, np.bool_)
        self.addresses = [one.ctypes.data for one in (self.logits, self.words, self.truncated)]
        self.address: int = self._functions.bantam_ngram_workspace(model, int(timed))
        if not self.address:
            raise MemoryError("no memory for the n-grams' buffers")

    def __del__(self) -> None:
        self._functions.bantam_ngram_free(self.address)


_mine = local()


def _without_model() -> _Workspace:
    found: _Workspace | None = getattr(_mine, "workspace", None)
    if found is None:
        found = _mine.workspace = _Workspace()
    return found


def _flat(
    texts: Sequence[str], call: Callable[[bytes, int, int, int], NDArray[Any]], dtype: type
) -> tuple[NDArray[Any], Ends]:
    """What `call` gives for some texts at a time, one after the other, and where each text's part ends."""
    ends = np.zeros(len(texts), np.int64)
    parts: list[NDArray[Any]] = [np.empty(0, dtype)]
    start = done = 0
    while start < len(texts):
        stop, size = start + 1, len(texts[start])
        while stop < len(texts) and size + len(texts[stop]) < BYTES and stop - start < TOGETHER:
            size += len(texts[stop])
            stop += 1
        found = call(*joined(texts[start:stop]), stop - start, ends[start:].ctypes.data)
        parts.append(found[: ends[stop - 1]].copy())
        ends[start:stop] += done
        start, done = stop, int(ends[stop - 1])
    return np.concatenate(parts), ends


def _pairs(texts: Sequence[Text]) -> list[str]:
    if set(map(type, texts)) == {tuple} and set(map(len, texts)) == {2}:
        return list(chain.from_iterable(texts))
    check_texts(texts)
    return flattened(texts, 2)


def _arrays(model: Model) -> list[NDArray[Any]]:
    """As Given in engine/source/ngram.h."""
    table = model.characters
    arrays: list[tuple[NDArray[Any], type]] = [
        *((model.rows, np.int8), (model.scale, np.float32), (model.keys, np.uint64), (model.tags, np.uint8)),
        *((model.displacement, np.uint16), (table.index, np.uint16), (table.pages, np.int32)),
        *((model.dense_weight, np.float32), (model.dense_bias, np.float32)),
        *((model.out_weight, np.float32), (model.out_bias, np.float32)),
    ]
    return [np.ascontiguousarray(array, dtype) for array, dtype in arrays]


def _numbers(model: Model, max_words: int) -> list[int]:
    return [
        *(len(model.characters.pages), model.rows.shape[1], len(model.dense_bias), len(model.out_bias)),
        *(len(model.keys).bit_length() - 1, len(model.displacement).bit_length() - 1, model.orders, model.inputs),
        *(ACTIVATIONS.index(model.activation), max_words, *model.multipliers),
    ]


def _raise(wrong: int) -> None:
    if wrong == NO_MEMORY:
        raise MemoryError("no memory for the n-grams' buffers")
    if wrong == TOO_LONG:
        raise TooLarge("a text must have at most 512 MiB; shorten it")
    if wrong:
        raise InputError("texts must be strings that UTF-8 can carry")
