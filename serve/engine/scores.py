"""Softmax and ranked labels as JSON in C: of few numbers a call of numpy takes longer than all of the arithmetic.

The calls keep the interpreter's lock: they take a microsecond, and to let go of it half of one.
"""

import ctypes
from functools import cache
from threading import local

import numpy as np
from numpy.typing import NDArray

from serve.engine.library import library
from serve.engine.network import Declined

MOST = 16  # labels; as in source/scores.c
AROUND = len('{"score":,')  # bytes beside a label's score and its name

Floats = NDArray[np.float32]


class Scores:
    """May be called from several threads at once; each has buffers of its own."""

    def __init__(self, functions: ctypes.PyDLL) -> None:
        self._softmax, self._ranked = functions.bantam_softmax, functions.bantam_ranked
        pointer, number = ctypes.c_void_p, ctypes.c_uint64
        self._softmax.argtypes = [ctypes.c_char_p, number, number, pointer]
        self._ranked.argtypes = [ctypes.c_char_p, number, number, ctypes.c_char_p, ctypes.c_char_p, *[pointer] * 3]
        self._ranked.restype = None
        self._mine = local()

    def softmax(self, logits: Floats) -> Floats | None:
        """Scores of logits [texts, up to MOST labels]; None of what are no finite numbers."""
        texts, labels = logits.shape
        assert logits.dtype == np.float32, logits.dtype
        scores = np.empty((texts, labels), np.float32)
        whole: int = self._softmax(logits.tobytes(), texts, labels, scores.ctypes.data)
        return scores if whole else None

    def ranked(self, scores: Floats, labels: tuple[str, ...]) -> tuple[bytes, list[int]]:
        """JSON of a list for each text of scores [texts, up to MOST labels], a comma behind each, and where they start;
        the end last.
        """
        import orjson  # where the model runs in another's server, nobody needs it

        texts, width = scores.shape
        scores = np.ascontiguousarray(scores, np.float32)
        assert width == len(labels), (width, labels)
        numbers = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)
        names, ends = _names(labels)
        room = self._room(len(numbers) + texts * (len(names) + width * AROUND + 3) + 8 * (texts + 1))
        starts = room.address + room.size - 8 * (texts + 1)
        self._ranked(scores.tobytes(), texts, width, numbers, names, ctypes.addressof(ends), room.address, starts)
        places = memoryview(ctypes.string_at(starts, 8 * (texts + 1))).cast("Q").tolist()
        return ctypes.string_at(room.address, places[-1]), places

    def _room(self, size: int) -> "_Room":
        found: _Room | None = getattr(self._mine, "room", None)
        if found is None or found.size < size:
            found = self._mine.room = _Room(max(4096, size))
        return found


class _Room:
    __slots__ = ("_memory", "address", "size")

    def __init__(self, size: int) -> None:
        self.size = (size + 7) // 8 * 8
        self._memory = ctypes.create_string_buffer(self.size)
        self.address = ctypes.addressof(self._memory)


@cache
def native() -> Scores | None:
    """None where it was not built."""
    try:
        found = library()
        return Scores(ctypes.PyDLL(found._name, handle=found._handle))
    except (Declined, AttributeError):
        return None


@cache
def _names(labels: tuple[str, ...]) -> tuple[bytes, "ctypes.Array[ctypes.c_uint64]"]:
    """What stands behind each label's score, and where each ends."""
    import orjson

    names = [b',"label":%b}' % orjson.dumps(label) for label in labels]
    ends = [sum(map(len, names[: at + 1])) for at in range(len(names))]
    return b"".join(names), (ctypes.c_uint64 * len(ends))(*ends)
