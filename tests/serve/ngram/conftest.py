"""A table of characters, and random texts of every script."""

import random

import pytest

from serve.ngram.words import Characters, characters

ENGLISH = ("a", "the", "it's", "Don't", "we'll", "GOOD", "film", "!", "n't", "o'er", "ca\u00f1on", "\u65e5\u672c")
BLOCKS = ((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x600), (0x900, 0xE00), (0x2000, 0x2800), (0x3000, 0xD7FF))


@pytest.fixture(scope="session")
def table() -> Characters:
    return characters()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return random_texts(random.Random(0), 3000)


def random_texts(rng: random.Random, count: int) -> list[str]:
    """Texts of words, of characters of one block, and of any characters but surrogates."""
    found = []
    for _ in range(count):
        size, kind = rng.randrange(40), rng.randrange(4)
        if kind == 0:
            found.append(rng.choice((" ", "  ", ", ", "-")).join(rng.choices(ENGLISH, k=size)))
        elif kind == 1:
            found.append("".join(map(chr, rng.choices(range(*rng.choice(BLOCKS)), k=size))))
        elif kind == 2:
            found.append("".join(rng.choices("nt'’ sdmrevl\u200b\u0301!aZ9_", k=size)))
        else:
            codes = (rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(size))
            found.append("".join(map(chr, codes)))
    return found
