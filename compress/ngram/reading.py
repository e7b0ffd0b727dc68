"""Texts as rows of the student's table: what training sums."""

from collections.abc import Sequence

import numpy as np

from compress.ngram.vocabulary import word_keys
from serve.encode import Encoded, Feeds, Text
from serve.ngram.keys import Keys, ngram_keys
from serve.ngram.lookup import Lookup, build, find
from serve.ngram.plain import cut, flattened
from serve.ngram.words import Characters

TOGETHER = 1024  # texts whose n-grams are in memory at once


class Reading:
    """Rows of the kept n-grams, in place of word pieces; `keys` names the n-gram of each row.

    Of a text with more than `features` of them a random part is taken, the same in each run.
    """

    def __init__(
        self,
        keys: Keys,
        characters: Characters,
        *,
        orders: int,
        inputs: int,
        features: int = 2048,
        max_length: int = 65_536,
    ) -> None:
        self.keys, self.characters, self.orders, self.inputs = keys, characters, orders, inputs
        self.features, self.max_length = features, max_length
        self.lookup: Lookup = build(keys)
        self.slots = find(self.lookup, keys)  # of each row
        self.row_of_slot = np.full(len(self.lookup.keys) + 1, -1, np.int32)
        self.row_of_slot[self.slots] = np.arange(len(keys))

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """Rows [hits] of each text; of a pair, those of both, and which of the two they are from."""
        found = [self._rows(texts[start : start + TOGETHER]) for start in range(0, len(texts), TOGETHER)]
        parts = [row for rows in found for row in rows]
        pairs = [parts[at : at + self.inputs] for at in range(0, len(parts), self.inputs)]
        types = [np.repeat(np.arange(self.inputs, dtype=np.int8), [len(part) for part in pair]) for pair in pairs]
        return Encoded([np.concatenate(pair) for pair in pairs], types, [False] * len(pairs))  # type: ignore[arg-type]

    def _rows(self, texts: Sequence[Text]) -> list[np.ndarray]:
        words, ends, _ = cut(*word_keys(flattened(texts, self.inputs), self.characters), self.max_length)
        keys, ends = ngram_keys(words, ends, self.orders)
        rows = self.row_of_slot[find(self.lookup, keys)]
        parts = [part[part >= 0] for part in np.split(rows, ends[:-1])]
        return [part if len(part) <= self.features else self._some(part) for part in parts]

    def _some(self, rows: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(rows)
        return rows[np.sort(random.choice(len(rows), self.features, replace=False))]

    def batch(self, encoded: Encoded, rows: Sequence[int]) -> Feeds:
        """Rows [B, longest] of each text, filled up with -1; of pairs two such."""
        feeds: Feeds = {}
        for part, name in enumerate(("input_ids", "input_ids_2")[: self.inputs]):
            own = [encoded.ids[row][encoded.types[row] == part] for row in rows]
            feeds[name] = np.full((len(rows), max(1, *map(len, own))), -1, np.int64)
            for at, found in enumerate(own):
                feeds[name][at, : len(found)] = found
        return feeds
