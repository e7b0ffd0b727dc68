"""Which word n-grams a student knows: the most frequent ones of a corpus, counted exactly and in bounded memory.

An n-gram is known by its 64-bit key (`serve.ngram.keys`) only; `compress.ngram.names` finds its words. Counting takes
minutes for ten million sentences, so a count that was stopped starts anew. Texts are counted as they come: a text that
comes twice counts twice.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.ngram.runs import RANGES, Counts, Keys, Runs
from compress.ngram.watch import Watch
from serve.engine.network import Declined
from serve.ngram import keys, library
from serve.ngram.keys import ORDERS, Ends, ngram_keys
from serve.ngram.words import Characters

MEMORY = 2 << 30  # bytes
LEAST_MEMORY = 4 << 20
PER_ROW = 256  # bytes of memory that each row needs at least: half of the memory holds rows and rivals, and copies
BATCH = 1 << 18  # characters that are split into words at once
PER_CHARACTER = 1024  # bytes of memory for each character of a batch: a quarter of them are for its words and n-grams


@dataclass(frozen=True)
class Vocabulary:
    """The most frequent n-grams, by falling count; of equal counts the smaller key comes first."""

    keys: Keys
    counts: Counts
    orders: int  # of n-grams: 1 to this
    texts: int  # that were counted
    ngrams: int  # in all texts, each as often as it came
    distinct: int  # different ones
    spilled: int  # bytes that counting took on disk


def count(
    texts: Iterable[str],
    *,
    orders: int,
    rows: int,
    characters: Characters,
    memory: int = MEMORY,
    folder: Path | None = None,
    least: int = 1,
    progress: bool = False,
) -> Vocabulary:
    """The `rows` most frequent n-grams of order 1 to `orders` that came at least `least` times.

    Takes at most `memory` bytes beyond what the process had (a text of more than memory / 1024 characters may add some
    256 bytes a character) and 8 bytes of disk in `folder` (left out: the system's folder for temporary files) for each
    n-gram that does not fit. Raises ValueError where there is nothing to count, memory is too small or the disk full.
    """
    _check(orders=orders, rows=rows, memory=memory, least=least)
    number = ngrams = distinct = 0
    largest = Largest(rows, least)
    total = len(texts) if isinstance(texts, Sized) else None
    with Runs(memory=memory, folder=folder) as runs:
        with Watch("counting n-grams", total, "texts", shown=progress) as watch:
            for batch in batches(texts, min(BATCH, memory // PER_CHARACTER)):
                grams, _ = ngram_keys(*word_keys(batch, characters), orders)
                runs.add(grams)
                number, ngrams = number + len(batch), ngrams + len(grams)
                watch.advance(len(batch))
        if not ngrams:
            raise ValueError(f"a vocabulary needs texts with words; got {number:,} texts and no word in them")
        with Watch("merging n-grams", RANGES, "ranges", shown=progress) as watch:
            for found, counts in runs.counts():
                distinct += len(found)
                largest.add(found, counts)
                watch.advance()
        kept, counts = largest.ordered()
    if not len(kept):
        raise ValueError(f"a vocabulary needs n-grams that come {least:,} times; none of {distinct:,} does: lower it")
    return Vocabulary(kept, counts, orders, number, ngrams, distinct, runs.spilled)


class Largest:
    """The `rows` keys of the largest counts, of those that are added with keys rising."""

    def __init__(self, rows: int, least: int) -> None:
        self.rows, self.above = rows, least - 1  # a count must be above this to get in
        self.keys, self.counts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        self.size = 0

    def add(self, keys: Keys, counts: Counts) -> None:
        wanted = counts > self.above
        self.keys.append(keys[wanted])
        self.counts.append(counts[wanted])
        self.size += len(self.keys[-1])
        if self.size > 2 * self.rows:
            self._cut()

    def _cut(self) -> None:
        keys, counts = np.concatenate(self.keys), np.concatenate(self.counts)
        if len(keys) > self.rows:
            self.above = int(np.partition(counts, len(counts) - self.rows)[len(counts) - self.rows])
            keep = counts > self.above
            ties = np.flatnonzero(counts == self.above)  # by rising key, and all keys to come are larger
            keep[ties[: self.rows - np.count_nonzero(keep)]] = True
            keys, counts = keys[keep], counts[keep]
        self.keys, self.counts, self.size = [keys], [counts], len(keys)

    def ordered(self) -> tuple[Keys, Counts]:
        self._cut()
        order = np.argsort(-self.counts[0], kind="stable")
        return self.keys[0][order], self.counts[0][order]


def word_keys(texts: Sequence[str], characters: Characters) -> tuple[Keys, Ends]:
    """Keys of the words of each text and where each text's end, in C where that was built."""
    try:
        return library.word_keys(texts, characters)
    except Declined:
        return keys.word_keys(texts, characters)


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of at least one text and, where they have more, of at most `size` characters; ValueError for no text."""
    if isinstance(texts, str):
        raise ValueError("texts must be a list or another series of strings; got one string: put it into a list")
    batch, held = list[str](), 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"each text must be a string; text {number} is {text!r}: leave it out")
        if batch and held + len(text) > size:
            yield _encodable(batch, number - len(batch))
            batch, held = [], 0
        batch.append(text)
        held += len(text) + 1  # empty texts take room too
    if batch:
        yield _encodable(batch, number + 1 - len(batch))


def _encodable(batch: list[str], first: int) -> list[str]:
    """The batch, if all of it is Unicode text."""
    try:
        "".join(batch).encode("utf-8")
    except UnicodeEncodeError:
        bad = next(at for at, text in enumerate(batch) if any(0xD800 <= ord(letter) < 0xE000 for letter in text))
        raise ValueError(f"each text must be Unicode; text {first + bad} has half a character: mend it") from None
    return batch


def _check(*, orders: int, rows: int, memory: int, least: int) -> None:
    if not 1 <= orders <= ORDERS:
        raise ValueError(f"orders must be 1 to {ORDERS}, got {orders}")
    if rows < 1 or least < 1:
        raise ValueError(f"rows and least must be 1 or more, got {rows} and {least}")
    if memory < (needed := max(LEAST_MEMORY, PER_ROW * rows)):
        raise ValueError(f"memory must be at least {needed:,} bytes for {rows:,} rows, got {memory:,}: raise it")
