"""Words of texts that were split by hand, and what must hold of every table."""

import random
import unicodedata

import numpy as np
import pytest

from serve.ngram.words import ALONE, APOSTROPHE, CODE_POINTS, DROPPED, KIND, LETTER, SEPARATOR, Characters, words

BY_HAND = {
    "": "",
    " \t\n.,;:-()": "",
    "A plain Sentence.": "a plain sentence",
    "state-of-the-art, 3.5/10": "state of the art 3 5 10",
    "snake_case __init__": "snake_case __init__",
    "Don't": "do n't",
    "DON\u2019T": "do n't",
    "it's": "it 's",
    "do n't": "do n't",
    "'hello'": "hello",
    "o'neil": "o neil",
    "rock 'n' roll": "rock n roll",
    "we'd I'm they're I've we'll": "we 'd i 'm they 're i 've we 'll",
    "can't won't isn't ain't": "ca n't wo n't is n't ai n't",
    "he'd've": "he 'd 've",
    "couldn't've": "could n't 've",
    "n't": "n't",
    "'t 't": "t t",
    "cat't": "cat t",
    "n 't": "n t",
    "x'n't": "x n't",
    "it's'": "it 's",
    "''s": "'s",
    "the dogs' 's": "the dogs 's",
    "it'sy 'see": "it sy see",
    "it\u200b'\u200bs don\u00ad'\u0301t": "it 's do n't",
    "it\uff07\uff33": "it 's",
    "ca\u00f1't": "ca n't",
    "Really?! What!!!": "really ? ! what ! ! !",
    "\uff01\uff1f": "! ?",
    "it's!": "it 's !",
    "good\U0001f600\U0001f44d\U0001f3fdbad \u2764\ufe0f": "good \U0001f600 \U0001f44d \U0001f3fd bad \u2764",
    "\u20ac5 + 6\u00a9": "5 6",
    "\u65e5\u672c\u8a9e\u3067\u3059\u3002ok": "\u65e5 \u672c \u8a9e \u3067 \u3059 ok",
    "\uc88b\uc740 \uc601\ud654": "\uc88b\uc740 \uc601\ud654",
    "\u0645\u0631\u062d \u05e9\u05dc\u05d5\u05dd\u200f!": "\u0645\u0631\u062d \u05e9\u05dc\u05d5\u05dd !",
    "\u041f\u0440\u0438\u0432\u0435, \u0439\u043e\u0434": "\u043f\u0440\u0438\u0432\u0435 \u0438\u043e\u0434",
    "Caf\u00e9 na\u00efve \u00c5NGSTR\u00d6M Stra\u00dfe": "cafe naive angstrom stra\u00dfe",
    "Cafe\u0301 nai\u0308ve": "cafe naive",
    "\u0130STANBUL I \u212a": "istanbul i k",
    "\u01b0\u1ee3ng \u1ec7": "uong e",
    "\uff21\uff22\uff23 \u00b2 \u017f": "abc 2 s",
    "co\u00adop\u200bera\u2060te\ufeff": "cooperate",
    "a\0b\x01c\x7fd\x85e": "a b c d e",
    "\u0301\u0301": "",
    "\u093f\u0928": "\u093f\u0928",
}


@pytest.mark.parametrize("text", BY_HAND)
def test_a_text_is_split_as_by_hand(text: str, table: Characters) -> None:
    assert words(text, table) == BY_HAND[text].split()


def test_the_table_by_hand_is_whole() -> None:
    assert len(BY_HAND) == 46


def test_a_word_of_a_megabyte_is_one_word(table: Characters) -> None:
    assert words("A" * 1_000_000, table) == ["a" * 1_000_000]


def test_composed_and_decomposed_letters_give_the_same_words(table: Characters) -> None:
    seen = 0
    for code in (*range(0x80, 0x500), *range(0x1E00, 0x2000)):
        composed = f"x{chr(code)}y"
        apart = unicodedata.normalize("NFD", composed)
        if apart != composed and all(0x300 <= ord(mark) < 0x370 for mark in apart[2:-1]):
            assert words(composed, table) == words(apart, table), hex(code)
            seen += 1
    assert seen > 700


def test_splitting_words_once_more_changes_nothing(table: Characters, texts: list[str]) -> None:
    for text in texts:
        once = words(text, table)
        assert words(" ".join(once), table) == once


def test_every_character_stands_for_one_that_stands_for_itself(table: Characters) -> None:
    flat = table.flat()
    kind, stands_for = flat >> KIND, flat & ((1 << KIND) - 1)
    assert len(flat) == CODE_POINTS
    assert set(kind.tolist()) == {SEPARATOR, LETTER, ALONE, APOSTROPHE, DROPPED}
    for one in (LETTER, ALONE):
        there = stands_for[kind == one]
        assert len(there) > 40_000
        np.testing.assert_array_equal(flat[there], one << KIND | there)
    assert not stands_for[(kind != LETTER) & (kind != ALONE)].any()


def test_letters_agree_with_pythons_own_view(table: Characters) -> None:
    """Against str.isalnum and str.lower, on what has neither accents nor a rule of its own."""
    rng, seen = random.Random(0), 0
    for code in rng.sample(range(0x10000), 5000):
        char = chr(code)
        if unicodedata.category(char) in ("Lu", "Ll", "Nd", "Po", "Zs") and unicodedata.normalize("NFKD", char) == char:
            if char in "!?'":
                continue
            expected = [char.lower()] if char.isalnum() and char not in "_" else []
            assert words(char, table) == expected, hex(code)
            seen += 1
    assert seen > 150
