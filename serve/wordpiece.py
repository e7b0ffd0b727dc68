"""Word pieces of ASCII texts in C, with the ids that `tokenizers` gives; every other text is left to that library.

It is used only with a tokenizer whose every setting that matters is known here: BERT's normalizer, its pre-tokenizer,
WordPiece and [CLS] A [SEP] B [SEP]. What they do to an ASCII text stands in engine/source/wordpiece.c.
"""

import json
from collections.abc import Iterable, Sequence
from ctypes import CDLL, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.library import library
from serve.engine.network import Declined

Text = str | tuple[str, str]
Rows = list[NDArray[np.int64]]

NEXT, END = b"\xfe", b"\xff"  # behind the first text of a pair, and behind each text: UTF-8 has no such bytes
LONGEST_WORD = 256  # letters, as in wordpiece.c
TOGETHER = 256  # texts in a call of C, so that what a thread keeps for itself stays small
IGNORED = -1


class AsciiPieces:
    """Cuts ASCII texts that hold no special token. May be called from several threads at once.

    Raises Declined where the library was not built, or where a setting of the tokenizer is not one that it knows.
    """

    def __init__(self, tokenizer_path: Path | str, *, max_length: int) -> None:
        if max_length < 2:
            raise Declined("max_length leaves no room for a text")
        found = functions()
        self._pieces, self._max_length, self._mine = found.bantam_pieces, max_length, local()
        # The file as it is: asked for its JSON, the library prints a warning where ids have holes.
        written = json.loads(Path(tokenizer_path).read_text("utf-8"))
        settings, specials = understood(written)
        words = {word: at for word, at in written["model"]["vocab"].items() if word.isascii()}
        ids = np.fromiter(words.values(), np.uint32, len(words))
        self._words, self._specials = _ended(words), _ended(specials)  # kept, as C points into both
        self._memory = np.zeros(found.bantam_pieces_size(len(ids)), np.uint8)
        self._vocabulary = self._memory.ctypes.data
        wrong = found.bantam_pieces_make(
            self._vocabulary,
            self._memory.nbytes,
            self._words,
            len(self._words),
            ids.ctypes.data,
            len(ids),
            self._specials,
            len(self._specials),
            np.array(settings, np.uint32).ctypes.data,
        )
        if wrong:
            raise Declined("its vocabulary is too large")

    def encode(self, texts: Sequence[Text]) -> tuple[Rows, Rows, list[int]]:
        """Ids and types of each text, and what became of it: -1 where it is left to others, 1 where it was cut."""
        if len(texts) <= TOGETHER:
            return self._call(texts)
        ids, types, became = self._call(texts[:TOGETHER])
        for start in range(TOGETHER, len(texts), TOGETHER):
            more = self._call(texts[start : start + TOGETHER])
            ids += more[0]
            types += more[1]
            became += more[2]
        return ids, types, became

    def _call(self, texts: Sequence[Text]) -> tuple[Rows, Rows, list[int]]:
        if not texts:
            return [], [], []
        room: _Room | None = getattr(self._mine, "room", None)
        if room is None:
            room = self._mine.room = _Room(self._max_length)
        data = END.join([one.encode() if isinstance(one, str) else NEXT.join(map(str.encode, one)) for one in texts])
        seen = self._pieces(self._vocabulary, data, len(data), len(texts), room.address)
        assert seen == len(texts), (seen, len(texts))
        ends, became = room.marks[:, :seen].tolist()
        ids, types = room.ids[: ends[-1]].copy(), room.types[: ends[-1]].copy()
        if seen == 1:
            return [ids], [types], became
        cuts = list(map(slice, [0, *ends[:-1]], ends))
        return [ids[cut] for cut in cuts], [types[cut] for cut in cuts], became


class _Room:
    """What C writes a call's results into; each thread has its own."""

    def __init__(self, max_length: int) -> None:
        self.ids, self.types = np.empty((2, TOGETHER * max_length), np.int64)
        self.marks = np.empty((2, TOGETHER), np.int64)  # where each text ends, and what became of it
        addresses = [one.ctypes.data for one in (self.ids, self.types, *self.marks)]
        self._results = np.array([*addresses, self.ids.size, TOGETHER, max_length], np.uint64)  # Results in C
        self.address = self._results.ctypes.data


@cache
def functions() -> CDLL:
    """The functions of source/wordpiece.c. Raises Declined where there are none."""
    found = library()
    try:
        found.bantam_pieces_size.argtypes, found.bantam_pieces_size.restype = [c_uint32], c_size_t
        found.bantam_pieces_make.argtypes = [
            *(c_void_p, c_size_t, c_char_p, c_size_t, c_void_p, c_uint32, c_char_p, c_size_t, c_void_p)
        ]
        found.bantam_pieces_make.restype = c_int
        found.bantam_pieces.argtypes = [c_void_p, c_char_p, c_size_t, c_uint32, c_void_p]
        found.bantam_pieces.restype = c_uint32
    except AttributeError:
        raise Declined("the library was built before it was written; run: python -m serve.engine.build") from None
    return found


def understood(found: dict[str, Any]) -> tuple[list[int], list[str]]:
    """What C asks for of a tokenizer.json, and its special tokens. Raises Declined, naming the part that differs.

    Whole parts are compared, so that a setting nobody knew of when this was written is refused as well.
    """
    try:
        model, processor = found["model"], found["post_processor"]
        first, last = (processor["single"][at]["SpecialToken"]["id"] for at in (0, 2))
        (first_id,), (last_id,) = (processor["special_tokens"][name]["ids"] for name in (first, last))
        unknown, most = model["vocab"][model["unk_token"]], model["max_input_chars_per_word"]
        many = [token["content"] for token in found["added_tokens"] if token["normalized"] or not token["content"]]
        expected = _expected(found, first, last)
    except (KeyError, IndexError, TypeError, ValueError):
        raise Declined("its tokenizer is not BERT's") from None
    for part in sorted(expected.keys() | found.keys()):
        if part not in expected or found.get(part) != expected[part]:
            raise Declined(f"its tokenizer's {part} is not BERT's")
    if not 0 <= most <= LONGEST_WORD:
        raise Declined(f"words of {most} letters are too long for it")
    if many:
        raise Declined(f"the added token {many[0]!r} of its tokenizer stands for more than itself")
    specials = [token["content"] for token in found["added_tokens"] if token["content"].isascii()]
    return [unknown, first_id, last_id, most, found["normalizer"]["lowercase"]], specials


def _expected(found: dict[str, Any], first: str, last: str) -> dict[str, Any]:
    """The JSON of a tokenizer that is known. What may differ is taken from `found`."""
    model = {key: found["model"][key] for key in ("unk_token", "max_input_chars_per_word", "vocab")}
    # The last two are of letters beyond ASCII.
    normalizer = {key: found["normalizer"][key] for key in ("lowercase", "handle_chinese_chars", "strip_accents")}
    opening, closing = ({"SpecialToken": {"id": name, "type_id": 0}} for name in (first, last))
    single = [opening, {"Sequence": {"id": "A", "type_id": 0}}, closing]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": last, "type_id": 1}}]
    return {
        "version": "1.0",
        "truncation": found["truncation"],  # this and padding: WordPieces sets its own
        "padding": found["padding"],
        "added_tokens": found["added_tokens"],
        "normalizer": {"type": "BertNormalizer", "clean_text": True} | normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + second,
            "special_tokens": found["post_processor"]["special_tokens"],
        },
        "decoder": found["decoder"],  # has no part in encoding
        "model": {"type": "WordPiece", "continuing_subword_prefix": "##"} | model,
    }


def _ended(words: Iterable[str]) -> bytes:
    return b"".join(word.encode() + END for word in words)
