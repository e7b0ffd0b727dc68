"""Keys against the contract in plain Python, one n-gram at a time."""

import numpy as np
import pytest

from serve.ngram.keys import ngram_keys, word_key, word_keys
from serve.ngram.words import Characters, words

MASK = (1 << 64) - 1


def plain_key(word: str) -> int:
    data = word.encode()
    padded = data + b"\0" * (-len(data) % 8)
    key = len(data) * 0x9E3779B97F4A7C15 & MASK
    for at in range(0, len(padded), 8):
        chunk = sum(byte << 8 * place for place, byte in enumerate(padded[at : at + 8]))
        key = (key ^ chunk) * 0xD6E8FEB86659FD93 & MASK
        key = key ^ key >> 32
    return key if key else 1


def plain_ngrams(keys: list[int], orders: int) -> list[int]:
    found = []
    for order in range(1, orders + 1):
        for start in range(len(keys) - order + 1):
            key = keys[start]
            for following in keys[start + 1 : start + order]:
                key = (key * 0xA0761D6478BD642F + following) & MASK
            found.append(key)
    return found


def test_two_keys_are_those_computed_by_hand() -> None:
    """One chunk, from the numbers themselves: (1 * LENGTH ^ "a") * CHUNK, and its halves folded."""
    product = (0x9E3779B97F4A7C15 ^ 0x61) * 0xD6E8FEB86659FD93 % 2**64
    assert word_key("a") == product ^ (product >> 32)
    assert word_key("") == 1


def test_keys_of_words_are_those_of_one_word_at_a_time(table: Characters, texts: list[str]) -> None:
    flat, ends = word_keys(texts, table)
    split = [words(text, table) for text in texts]
    assert flat.dtype == np.uint64 and ends.dtype == np.int64
    assert flat.tolist() == [plain_key(word) for row in split for word in row]
    assert ends.tolist() == np.cumsum([len(row) for row in split]).tolist()
    assert len(flat) > 20_000
    assert {len(word.encode()) % 8 for row in split for word in row} == set(range(8))


@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_keys_of_ngrams_are_those_of_one_text_at_a_time(orders: int, table: Characters, texts: list[str]) -> None:
    flat, ends = word_keys(texts, table)
    found, found_ends = ngram_keys(flat, ends, orders)
    start = found_start = 0
    for end, found_end in zip(ends.tolist(), found_ends.tolist(), strict=True):
        assert found[found_start:found_end].tolist() == plain_ngrams(flat[start:end].tolist(), orders)
        start, found_start = end, found_end
    assert found_start == len(found)


def test_no_text_and_no_word_have_no_keys(table: Characters) -> None:
    for texts in ([], [""], ["...", " ", ""]):
        flat, ends = word_keys(texts, table)
        found, found_ends = ngram_keys(flat, ends, 4)
        assert (len(flat), ends.tolist(), len(found), found_ends.tolist()) == (0, [0] * len(texts), 0, [0] * len(texts))


def test_orders_of_which_there_are_none_are_refused() -> None:
    for orders in (0, 5):
        with pytest.raises(ValueError, match=f"orders must be 1 to 4, got {orders}"):
            ngram_keys(np.zeros(0, np.uint64), np.zeros(0, np.int64), orders)


def test_different_words_have_different_keys(table: Characters, texts: list[str]) -> None:
    known = {word for text in texts for word in words(text, table)} | {"\0" * count for count in range(20)}
    assert len({word_key(word) for word in known}) == len(known) > 5_000
