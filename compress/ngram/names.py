"""The words behind a vocabulary's keys, for people to read, and the proof that no key stands for two n-grams."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from compress.ngram.runs import Keys
from compress.ngram.vocabulary import BATCH, Vocabulary, batches, word_keys
from compress.ngram.watch import Watch
from serve.ngram.keys import ngram_keys
from serve.ngram.words import Characters, words


@dataclass(frozen=True)
class Names:
    names: list[str]  # words with spaces between them; "" for a key that is in none of the texts
    collisions: int  # keys for which two different n-grams were seen


def names(vocabulary: Vocabulary, texts: Iterable[str], characters: Characters, *, progress: bool = False) -> Names:
    """The n-gram of each key of the vocabulary, in its order, by a second pass over the texts that were counted.

    Every n-gram of the texts that has a kept key is compared, word by word, with the first that had it. Takes memory
    for the names and the words in them: for each kept key some 30 bytes and its name, and 150 for each different word.
    """
    found = _Found(vocabulary)
    with Watch("naming n-grams", vocabulary.texts, "texts", shown=progress) as watch:
        for batch in batches(texts, BATCH):
            flat, ends = word_keys(batch, characters)
            keys, _ = ngram_keys(flat, ends, vocabulary.orders)
            found.add([word for text in batch for word in words(text, characters)], keys, ends)
            watch.advance(len(batch))
    return Names(found.names, int(found.collided.sum()))


class _Found:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.orders = vocabulary.orders
        self.rank = np.argsort(vocabulary.keys)
        self.sorted = vocabulary.keys[self.rank]
        self.names = [""] * len(self.rank)
        self.words = np.zeros((len(self.rank), self.orders), dtype=np.int32)  # numbers of each name's words; 0 for none
        self.collided = np.zeros(len(self.rank), dtype=bool)
        self.known: dict[str, int] = {}  # numbers of the words in names, from 1

    def add(self, flat: list[str], keys: Keys, ends: np.ndarray) -> None:
        """Compare a batch's n-grams. `flat` are the words of its texts, `keys` what `ngram_keys` made of them."""
        starts, orders = places(ends, self.orders)
        assert len(flat) == (ends[-1] if len(ends) else 0) and len(keys) == len(starts)
        at = np.minimum(np.searchsorted(self.sorted, keys), len(self.sorted) - 1)
        hits = np.flatnonzero(self.sorted[at] == keys)
        rows, starts, orders = self.rank[at[hits]], starts[hits], orders[hits]
        new = np.flatnonzero(self.words[rows, 0] == 0)
        new = new[np.unique(rows[new], return_index=True)[1]]  # the first place of each key
        for row, start, order in zip(rows[new].tolist(), starts[new].tolist(), orders[new].tolist(), strict=True):
            gram = flat[start : start + order]
            self.names[row] = " ".join(gram)
            self.words[row, :order] = [self.known.setdefault(word, len(self.known) + 1) for word in gram]
        # A word that is in no name is -1, and so differs from every word of a name.
        numbers = np.array([self.known.get(word, -1) for word in flat] + [0] * self.orders, dtype=np.int32)
        for place in range(self.orders):
            here = np.where(place < orders, numbers[starts + place], 0)
            self.collided[rows[here != self.words[rows, place]]] = True


def places(ends: np.ndarray, orders: int) -> tuple[np.ndarray, np.ndarray]:
    """First word (counted over all texts) and order of each n-gram, as `ngram_keys` lists them."""
    lengths = np.diff(ends, prepend=0)
    counts = np.maximum(lengths[:, None] - np.arange(orders), 0).reshape(-1)
    first = np.repeat(np.repeat(ends - lengths, orders), counts)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return first + inside, np.repeat(np.tile(np.arange(1, orders + 1), len(lengths)), counts)
