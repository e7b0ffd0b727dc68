"""Words and n-grams as 64-bit numbers, their keys. All arithmetic is modulo 2^64, and 0 is no key but padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve.ngram.words import Characters, words

Keys = NDArray[np.uint64]
Ends = NDArray[np.int64]  # where each text's keys end in a flat array

LENGTH = 0x9E3779B97F4A7C15
CHUNK = 0xD6E8FEB86659FD93
NEXT = 0xA0761D6478BD642F
MODULUS = 1 << 64
ORDERS = 4  # the highest order of an n-gram


def word_key(word: str) -> int:
    """The key of a word, from 8 of its bytes at a time."""
    data = word.encode("utf-8")
    key = len(data) * LENGTH % MODULUS
    for start in range(0, len(data), 8):
        chunk = int.from_bytes(data[start : start + 8], "little")
        key = (key ^ chunk) * CHUNK % MODULUS
        key ^= key >> 32
    return key or 1


def word_keys(texts: Sequence[str], table: Characters) -> tuple[Keys, Ends]:
    """Keys of the words of each text, one after the other, and where each text's end."""
    split = [words(text, table) for text in texts]
    known = {word: at for at, word in enumerate(dict.fromkeys(word for row in split for word in row))}
    keys = _keys_of(list(known))
    order = np.fromiter((known[word] for row in split for word in row), dtype=np.int64)
    return keys[order], np.cumsum([len(row) for row in split], dtype=np.int64)


def _keys_of(known: list[str]) -> Keys:
    """`word_key` of each word: the first chunks of all, then the second ones of those that have them."""
    encoded = [word.encode("utf-8") for word in known]
    sizes = np.array([len(data) for data in encoded], dtype=np.uint64)
    chunks = (sizes.astype(np.int64) + 7) // 8
    padded = b"".join(data.ljust(8 * count, b"\0") for data, count in zip(encoded, chunks.tolist(), strict=True))
    flat = np.frombuffer(padded, dtype="<u8").astype(np.uint64)
    starts = np.cumsum(chunks) - chunks
    keys = sizes * np.uint64(LENGTH)
    left = np.arange(len(known))
    for chunk in range(int(chunks.max(initial=0))):
        left = left[chunks[left] > chunk]
        mixed = (keys[left] ^ flat[starts[left] + chunk]) * np.uint64(CHUNK)
        keys[left] = mixed ^ (mixed >> np.uint64(32))
    keys[keys == 0] = 1
    return keys


def ngram_keys(flat: Keys, ends: Ends, orders: int) -> tuple[Keys, Ends]:
    """Keys of the n-grams of order 1 to `orders` of each text, all of order 1 first, and where each text's end."""
    if not 1 <= orders <= ORDERS:
        raise ValueError(f"orders must be 1 to {ORDERS}, got {orders}")
    lengths = np.diff(ends, prepend=0)
    length = np.repeat(lengths, lengths)  # of the text that a word is in
    at = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)  # its place there
    counts = np.maximum(lengths[:, None] - np.arange(orders), 0)
    found_ends = np.cumsum(counts.sum(axis=1))
    starts = (found_ends - counts.sum(axis=1))[:, None] + np.cumsum(counts, axis=1) - counts
    found = np.empty(int(counts.sum()), dtype=np.uint64)
    keys = flat
    for order in range(orders):
        if order:
            keys = keys[:-1] * np.uint64(NEXT) + flat[order:]
        whole = at[: len(keys)] + order < length[: len(keys)]
        places = np.repeat(starts[:, order], lengths)[: len(keys)] + at[: len(keys)]
        found[places[whole]] = keys[whole]
    return found, found_ends
