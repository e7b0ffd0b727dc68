"""Texts to the keys of their words: the inputs of the student's ONNX file, and the rows that training sums."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.encode import Encoded, Feeds, Text, check_texts
from serve.errors import TooLong
from serve.ngram import library
from serve.ngram.file import read
from serve.ngram.keys import Ends, Keys, word_keys
from serve.ngram.lookup import Slots
from serve.ngram.plain import cut, flattened, slots
from serve.ngram.runtime import opened


class NGrams:
    """An n-gram model's file, of texts (of each of a pair's texts) the first `max_length` words.

    `declined` says why numpy splits texts and not our C; None where the C does.
    """

    def __init__(self, path: Path | str, *, max_length: int) -> None:
        self.path, self.max_length = Path(path), max_length
        self.model = read(path)
        self.inputs = ("words", "words_2")[: self.model.inputs]
        self.answering, self.declined = opened(self.model, max_words=max_length)

    @property
    def tokenizer(self) -> str:
        """Who splits texts, and why, where not our C."""
        return "bantam" if self.declined is None else f"numpy: {self.declined}"

    @property
    def size(self) -> int:
        """Kept n-grams."""
        return int(np.count_nonzero(self.model.keys))

    def encode(self, texts: Sequence[Text], *, truncate: bool = True) -> Encoded:
        """Keys of the words of each text. Without `truncate` a text over the maximum length is TooLong."""
        flat, ends, cut = self.keys(texts)
        paired = (len(texts), self.model.inputs)
        truncated: list[bool] = np.logical_or.reduce(cut.reshape(paired), axis=1).tolist()
        check_whole(truncated, truncate=truncate, max_length=self.max_length)
        lengths = np.diff(ends, prepend=0)
        types = np.repeat(np.tile(np.arange(self.model.inputs), len(texts)), lengths)
        whole = ends.reshape(paired)[:, -1][:-1]
        if not len(texts):
            return Encoded([], [], [])
        return Encoded(np.split(flat.view(np.int64), whole), np.split(types, whole), truncated)

    def keys(self, texts: Sequence[Text]) -> tuple[Keys, Ends, NDArray[np.bool_]]:
        """Keys of the words, where they end, and whether there were more: of each text, of a pair's one by one."""
        check_texts(texts)
        return cut(*self._word_keys(flattened(texts, self.model.inputs)), self.max_length)

    def _word_keys(self, texts: Sequence[str]) -> tuple[Keys, Ends]:
        if self.declined is not None:
            return word_keys(texts, self.model.characters)
        return library.word_keys(texts, self.model.characters, max_words=self.max_length + 1)

    def batch(self, encoded: Encoded, rows: Sequence[int]) -> Feeds:
        """The model's inputs [len(rows), longest row], padded with zeros on the right."""
        feeds: Feeds = {}
        for part, name in enumerate(self.inputs):
            keys = [encoded.ids[row][encoded.types[row] == part] for row in rows]
            feeds[name] = np.zeros((len(rows), max(1, *map(len, keys))), dtype=np.int64)
            for at, row in enumerate(keys):
                feeds[name][at, : len(row)] = row
        return feeds

    def table_rows(self, encoded: Encoded) -> tuple[Slots, Ends]:
        """Rows of the kept n-grams of each text, one after the other, and where they end; a pair's two texts each."""
        lengths = [np.bincount(types, minlength=self.model.inputs) for types in encoded.types]
        ends = np.cumsum(np.array(lengths, dtype=np.int64).reshape(-1))
        flat = np.concatenate([np.zeros(0, np.int64), *encoded.ids]).view(np.uint64)
        return slots(self.model, flat, ends)


def check_whole(truncated: Sequence[bool], *, truncate: bool, max_length: int) -> None:
    """TooLong where a text was cut that should not be."""
    if not truncate and any(truncated):
        raise TooLong(
            f"`inputs` must have at most {max_length} words, but text {list(truncated).index(True)} has more; shorten "
            'it or ask for "truncate": true'
        )
