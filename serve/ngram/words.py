"""Texts to words, by a table of characters that is part of the model: no answer depends on Python's Unicode version.

A *word* is a run of letters, digits, marks and "_", or one character of those that stand alone: Chinese and Japanese
ones, emoji, "!" and "?". Words are lower-case and have no accents. An apostrophe ends a word, save for English endings:
"Don't" is "do", "n't"; "it's" is "it", "'s". The C of `library` splits in the same way.
"""

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# What a character is: the upper bits of its entry. The lower 24 hold the code point that stands for it.
SEPARATOR, LETTER, ALONE, APOSTROPHE, DROPPED = range(5)
KIND = 24
CODE_POINTS = 0x110000
PAGE = 256

ENDINGS = frozenset(("s", "d", "m", "re", "ve", "ll"))  # words of their own behind an apostrophe, as "t" is after "n"

ACCENTS = range(0x300, 0x370)
SELECTORS = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))  # which of a character's pictures is meant
UNSEEN = frozenset((*ACCENTS, 0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *SELECTORS))
APOSTROPHES = (0x27, 0x2BC, 0x2019, 0xFF07)
MARKS = {0x21: 0x21, 0x3F: 0x3F, 0xFF01: 0x21, 0xFF1F: 0x3F}
UNSPACED = (  # Han, Hiragana and Katakana: no spaces show where a word ends
    range(0x3005, 0x3008),
    range(0x3041, 0x3100),
    range(0x31F0, 0x3200),
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0xFF66, 0xFFA0),
    range(0x1AFF0, 0x1B170),
    range(0x20000, 0x2FA20),
    range(0x30000, 0x33480),
)


@dataclass(frozen=True)
class Characters:
    """The table of characters: that of `code` is pages[index[code // 256], code % 256]."""

    index: NDArray[np.uint16]  # [4352]
    pages: NDArray[np.int32]  # [pages, 256]: kind << 24 | code point

    def flat(self) -> NDArray[np.int32]:
        """The entry of every code point."""
        return self.pages[self.index].reshape(-1)

    @cached_property
    def spelt(self) -> dict[int, str]:
        """For str.translate: separators become spaces, what stands alone gets spaces around it."""
        return _Spelt(self)


class _Spelt(dict[int, str]):
    def __init__(self, table: Characters) -> None:
        self.table = table

    def __missing__(self, code: int) -> str:
        entry = int(self.table.pages[self.table.index[code // PAGE], code % PAGE])
        letter = chr(entry & ((1 << KIND) - 1))
        self[code] = {LETTER: letter, ALONE: f" {letter} ", APOSTROPHE: "'", DROPPED: ""}.get(entry >> KIND, " ")
        return self[code]


def words(text: str, table: Characters) -> list[str]:
    """The words of a text, in order."""
    found = list[str]()
    for run in text.translate(table.spelt).split(" "):
        if "'" in run:
            found += _apart(run.split("'"))
        elif run:
            found.append(run)
    return found


def _apart(runs: list[str]) -> list[str]:
    """Words of runs of letters with apostrophes between them."""
    found = [runs[0]]
    for before, run in pairwise(runs):
        if run in ENDINGS:
            found.append("'" + run)
        elif run == "t" and before.endswith("n"):
            found[-1] = before[:-1]
            found.append("n't")
        else:
            found.append(run)
    return [word for word in found if word]


def characters() -> Characters:
    """The table of this Python's Unicode version, for a new vocabulary."""
    entries = np.fromiter(map(_entry, range(CODE_POINTS)), dtype=np.int32, count=CODE_POINTS)
    pages, index = np.unique(entries.reshape(-1, PAGE), axis=0, return_inverse=True)
    return Characters(index.reshape(-1).astype(np.uint16), pages)


def _entry(code: int) -> int:
    kind = _kind(code)
    if kind == LETTER:
        return kind << KIND | _folded(code)
    return kind << KIND | (MARKS.get(code, code) if kind == ALONE else 0)


def _kind(code: int) -> int:
    category = unicodedata.category(chr(code))
    if category in ("Cn", "Co", "Cs"):  # unassigned, private, half of a pair: nearly all of them
        return SEPARATOR
    if code in UNSEEN:
        return DROPPED
    if code in APOSTROPHES:
        return APOSTROPHE
    picture = category in ("So", "Sk") and (code >= 0x1F000 or 0x2600 <= code < 0x27C0)
    if code in MARKS or picture:
        return ALONE
    if category[0] not in "LNM" and code != ord("_"):
        return SEPARATOR
    return ALONE if any(code in block for block in UNSPACED) else LETTER


def _folded(code: int) -> int:
    """A letter without accents and lower-case: the first of its decomposition where only accents follow."""
    first, *rest = map(ord, unicodedata.normalize("NFKD", chr(code)))
    base = first if all(mark in ACCENTS for mark in rest) and _kind(first) == LETTER else code
    lower = chr(base).lower()
    return ord(lower) if len(lower) == 1 else base
